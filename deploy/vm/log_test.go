package vm

import (
	"strings"
	"testing"
)

func TestLogTrouble(t *testing.T) {
	// From runs in which the server was killed, and from kernels of other years.
	bad := []string{
		"<3>[   50.939807] I/O error, dev nbd0, sector 16288 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2",
		"<4>[   50.940157] Read-error on swap-device (43:0:16288)",
		"<4>[   50.940808] Write-error on swap-device (43:0:45768)",
		"<3>[   50.930114] block nbd0: Receive control failed (result -104)",
		"<3>[   50.935026] block nbd0: Send data failed (result -32)",
		"<3>[   50.935939] block nbd0: Request send failed, requeueing",
		"<3>[   50.939156] block nbd0: Dead connection, failed to find a fallback",
		"<3>[   60.2] block nbd0: Connection timed out, shutting down connection",
		"<3>[  242.9] INFO: task kswapd0:36 blocked for more than 120 seconds.",
		"<3>[   67.070776] Out of memory: Killed process 136 (swapoff) total-vm:4028kB, anon-rss:160kB",
		"<1>[   12.0] BUG: unable to handle page fault for address: 0000000000001000",
		"<4>[   12.1] Oops: 0000 [#1] PREEMPT SMP NOPTI",
		"<3>[   13.0] swap_free: Bad swap file entry 3ffffffffffff",
		"<6>[   13.2] guest[126]: segfault at 8 ip 00000000004035ca sp 00007ffd error 4",
		"<0>[   13.3] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000007",
	}
	for _, line := range bad {
		if got := LogTrouble("<6>[    1.0] fine\n"+line+"\n<6>[    2.0] fine\n", nil); len(got) != 1 || got[0] != line {
			t.Errorf("%q: found %q", line, got)
		}
	}
	good := []string{
		"<3>[   60.1] block nbd0: Possible stuck request 000000001: control (read@0,4096B). Runtime 30 seconds",
		"<5>[    0.080808] Kernel command line: console=ttyS0 quiet sysrq_always_enabled oops=panic panic=-1 mitigations=off",
		"<6>[    5.127439] Adding 524284k swap on /dev/nbd0.  Priority:-2 extents:1 across:524284k SSDsc",
		"<6>[  107.052307] block nbd0: NBD_DISCONNECT",
		"<6>[  107.054496] block nbd0: Disconnected due to user request.",
		"<4>[  107.054566] block nbd0: shutting down sockets",
		"<6>[    0.3] ACPI: bus type PCI registered",
		"<6>[    0.9] Block layer SCSI generic (bsg) driver version 0.4 loaded (major 248)",
	}
	if got := LogTrouble(strings.Join(good, "\n")+"\n", nil); len(got) != 0 {
		t.Errorf("an ordinary log: found %q", got)
	}
}

// Where connections die on purpose, that is no trouble; what follows from it is.
func TestLogTroubleExpected(t *testing.T) {
	log := strings.Join([]string{
		"<3>[   50.930114] block nbd0: Receive control failed (result -104)",
		"<3>[   50.935026] block nbd0: Send data failed (result -32)",
		"<3>[   50.935939] block nbd0: Request send failed, requeueing",
		"<3>[   50.939156] block nbd0: Dead connection, failed to find a fallback",
		"<3>[   60.2] block nbd0: Connection timed out, retrying (1/2 alive)",
		"<3>[   60.2] block nbd0: Connection timed out, shutting down connection",
		"<4>[   60.3] Read-error on swap-device (43:0:16288)",
	}, "\n")
	if got := LogTrouble(log, deadConnections); len(got) != 2 || !strings.Contains(got[0], "shutting down") || !strings.Contains(got[1], "Read-error") {
		t.Errorf("found %q", got)
	}
}

// Where memory is exhausted on purpose, one program may be killed.
func TestLogTroubleOfExhaustion(t *testing.T) {
	log := strings.Join([]string{
		"<4>[   67.0] guest invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=0, oom_score_adj=-1000",
		"<6>[   67.1] oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/,task=tail,pid=136,uid=0",
		"<3>[   67.2] Out of memory: Killed process 136 (tail) total-vm:4028kB, anon-rss:160kB",
		"<3>[   67.3] block nbd0: Dead connection, failed to find a fallback",
		"<6>[   68.1] oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/,task=tmemd,pid=99,uid=0",
		"<3>[   68.2] Out of memory: Killed process 99 (tmemd) total-vm:4028kB, anon-rss:160kB",
		"<4>[   68.3] Read-error on swap-device (43:0:16288)",
	}, "\n")
	if got := LogTrouble(log, exhaustion); len(got) != 3 || !strings.Contains(got[0], "task=tmemd") || !strings.Contains(got[1], "(tmemd)") || !strings.Contains(got[2], "Read-error") {
		t.Errorf("found %q", got)
	}
}

func TestConsoleKeepsTheEnd(t *testing.T) {
	c := &console{limit: 10}
	for _, part := range []string{"one\r\n", "two\r\n", "three\r\n"} {
		if n, err := c.Write([]byte(part)); n != len(part) || err != nil {
			t.Errorf("Write = %d, %v", n, err)
		}
	}
	if got := c.String(); got != "o\nthree\n" {
		t.Errorf("got %q; want the last 10 bytes, without carriage returns", got)
	}
}
