package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/spf13/cobra/doc"

	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/cmd/internal/ctl"
)

const section = "8"

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: manpages VERSION FOLDER")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2], date()); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func date() time.Time {
	if seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil {
		return time.Unix(seconds, 0).UTC()
	}
	return time.Now().UTC()
}

func write(version, folder string, date time.Time) error {
	root := ctl.Tree(version)
	root.DisableAutoGenTag = true
	header := &doc.GenManHeader{Section: section, Date: &date, Source: "tmemd " + version, Manual: "Transcendent memory for swap"}
	if err := doc.GenManTree(root, header, folder); err != nil {
		return fmt.Errorf("write the pages of tmemctl: %w", err)
	}
	page := md2man.Render([]byte(daemonPage(version, config.Help, date)))
	if err := os.WriteFile(filepath.Join(folder, "tmemd."+section), page, 0o644); err != nil {
		return fmt.Errorf("write the page of tmemd: %w", err)
	}
	return nil
}

// daemonPage makes Markdown of tmemd's help text: its first paragraph says what it does, then comes the usage, then more
// paragraphs, of which one is the list of flags.
func daemonPage(version, help string, date time.Time) string {
	paragraphs := strings.Split(strings.TrimSpace(help), "\n\n")
	var synopsis, flags, rest []string
	for _, p := range paragraphs {
		switch {
		case strings.HasPrefix(p, "usage: "):
			synopsis = append(synopsis, p)
		case strings.HasPrefix(p, "  --"):
			flags = append(flags, p)
		default:
			rest = append(rest, p)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%% \"TMEMD\" \"8\" \"%s\" \"tmemd %s\" \"Transcendent memory for swap\"\n", date.Format("Jan 2006"), version)
	fmt.Fprint(&b, "# NAME\n\ntmemd - transcendent memory for Linux swap\n\n# SYNOPSIS\n\n")
	for line := range strings.Lines(strings.Join(synopsis, "\n")) {
		line, note, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(line, "usage:")), "] ")
		if strings.Contains(line, "[") && !strings.HasSuffix(line, "]") {
			line += "]"
		}
		fmt.Fprintf(&b, "**%s**", line)
		if note != "" {
			fmt.Fprintf(&b, " (%s)", strings.TrimSpace(note))
		}
		fmt.Fprint(&b, "\n\n")
	}
	fmt.Fprintf(&b, "# DESCRIPTION\n\n%s\n\n# OPTIONS\n\n", strings.Join(rest, "\n\n"))
	for _, option := range options(strings.Join(flags, "\n")) {
		fmt.Fprintf(&b, "**%s**\n: %s\n\n", option.flag, option.text)
	}
	b.WriteString(daemonRest)
	return b.String()
}

type option struct{ flag, text string }

// options reads the list of flags: each begins with two spaces and two dashes, and its text begins two spaces or more after it.
func options(list string) (all []option) {
	for line := range strings.Lines(list) {
		text := strings.TrimSpace(line)
		if strings.HasPrefix(line, "  --") {
			flag, text, _ := strings.Cut(text, "  ")
			all = append(all, option{flag, strings.TrimSpace(text)})
		} else if len(all) > 0 {
			all[len(all)-1].text += " " + text
		}
	}
	return all
}

// daemonRest is what the help text leaves to the manual page.
const daemonRest = `# SIGNALS

**SIGTERM**, **SIGINT**
: Move every page to storage, wait for the last client, end. The second one does not wait for clients.

**SIGHUP**
: Read certificates and lists of donors anew. From the terminal that the daemon was started from it means the same as SIGTERM.

**SIGUSR2**
: Become the program that is installed now, as tmemctl upgrade does.

# EXIT STATUS

0 after an orderly end, 1 after a failure, 2 if the command line or the configuration file is wrong.

# FILES

**/etc/tmemd/tmemd.toml**
: The configuration file of the Debian package, which explains every key.

**/etc/default/tmemd**
: TMEMD_OPTIONS are the flags of the systemd unit tmemd.service.

**/etc/tmemd/nbd0.env**
: TMEM_SWAP_OPTIONS are the flags of the systemd unit tmem-swap@nbd0.service.

**/var/lib/tmemd**
: Sockets, state and storage.

**/dev/shm/tmemd-CODE**
: Pages in memory, which outlive the process.

# SEE ALSO

**tmemctl(8)**, **swapon(8)**, **nbd(8)**, **/usr/share/doc/tmemd/README.md**
`
