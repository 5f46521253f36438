package vm

import (
	"regexp"
	"strings"
)

// trouble is what the kernel writes when swap, the block device or the kernel itself failed. Lockup, RCU stall and stuck request
// warnings are not among it: under emulation they only say that the test machine was busy.
var trouble = regexp.MustCompile(`I/O error|(?i:(write|read)-error on swap)|SIGBUS|(?i:bad swap|unused swap offset)|` +
	`nbd\d*: (?i:connection timed out|dead connection|receive control failed|send .*failed)|` +
	`nbd\d*: (?i:request .*(failed|timed out)|double reply|unexpected reply)|` +
	`blocked for more than|Out of memory|oom-kill|BUG:|Bad page|Oops:|Kernel panic|general protection fault|segfault`)

// deadConnections is what the kernel writes of connections that die and come back: no failure where a test brings that about.
var deadConnections = regexp.MustCompile(`nbd\d*: (?i:connection timed out, retrying|dead connection|receive (control|data) failed|` +
	`send (control|data) failed|request send failed, requeueing)`)

// victim is a program that takes all memory that it can get, and may be killed for it.
const victim = "tail"

// exhaustion is what the kernel writes where dead connections are expected and, besides, that it had no memory left and killed
// the victim: nobody else.
var exhaustion = regexp.MustCompile(deadConnections.String() + `|invoked oom-killer: |oom-kill:.*,task=` + victim + `,|` +
	`Out of memory: Killed process \d+ \(` + victim + `\)`)

// LogTrouble returns the lines of a kernel log that tell of a failure, but for those expected, if it is not nil.
func LogTrouble(log string, expected *regexp.Regexp) []string {
	var lines []string
	for line := range strings.Lines(log) {
		if trouble.MatchString(line) && (expected == nil || !expected.MatchString(line)) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}
