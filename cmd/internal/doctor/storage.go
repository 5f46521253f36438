package doctor

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// storage checks where the daemon's storage is.
func (e *examination) storage() {
	if e.Daemon == nil || len(e.Daemon.Exports) == 0 {
		return
	}
	mounts, err := e.mounts(e.Daemon.PID)
	if err != nil {
		e.unknown("storage", "daemon", err)
		return
	}
	for _, x := range e.Daemon.Exports {
		e.storageOf(x, mounts)
	}
}

// mount is a line of /proc/PID/mountinfo.
type mount struct{ at, kind, source string }

// mounts lists what is mounted, as a process sees it.
func (e *examination) mounts(pid int) ([]mount, error) {
	text, err := e.read("proc", strconv.Itoa(pid), "mountinfo")
	if err != nil {
		return nil, err
	}
	var list []mount
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		before, after, found := strings.Cut(lines.Text(), " - ")
		fields, rest := strings.Fields(before), strings.Fields(after)
		if !found || len(fields) < 5 || len(rest) < 2 {
			return nil, fmt.Errorf("/proc/%d/mountinfo has the line %q", pid, lines.Text())
		}
		list = append(list, mount{at: unescape(fields[4]), kind: rest[0], source: rest[1]})
	}
	return list, nil
}

// unescape undoes what the kernel does to blanks in paths.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}

// mountOf finds the file system that a path is on. The last of those at one place
// hides the others.
func mountOf(list []mount, path string) (found mount) {
	for _, m := range list {
		below := m.at == "/" || path == m.at || strings.HasPrefix(path, m.at+"/")
		if below && len(m.at) >= len(found.at) {
			found = m
		}
	}
	return found
}

func (e *examination) storageOf(x admin.Export, mounts []mount) {
	const check = "storage"
	path, subject := x.Storage.Path, "export "+x.Name
	if strings.HasPrefix(path, "/dev/") {
		if strings.HasPrefix(path, "/dev/nbd") || strings.HasPrefix(path, "/dev/zram") {
			e.add(check, subject, Problem, path+" is memory or swap itself: what goes there comes back here", "give it a file or a device on a disk")
			return
		}
		e.add(check, subject, OK, path, "")
		return
	}
	m := mountOf(mounts, path)
	where := fmt.Sprintf("%s is on %s", path, m.kind)
	switch m.kind {
	case "tmpfs", "ramfs":
		e.add(check, subject, Problem, where+": pages that memory had no room for are in memory, and what is there is swapped, to itself", "move it to a disk: export.storage in the configuration")
	case "nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "fuse", "fuse.sshfs", "glusterfs":
		e.add(check, subject, e.worstOf(Warning), where+", over the network: writing there takes memory just when there is none", "use a local disk, or a ramster backend for other hosts' memory")
	case "btrfs", "zfs", "bcachefs":
		e.add(check, subject, Warning, where+", which writes each page to a new place, and takes memory for it", "chattr +C on its folder before the file is made (btrfs), or use a partition, ext4 or xfs")
	case "overlay":
		e.add(check, subject, Warning, where+": it goes with the container, and through another file system", "give the container a volume for the state folder")
	case "":
		e.unknown(check, subject, errors.New("no file system is mounted where "+path+" is"))
		return
	default:
		e.add(check, subject, OK, where, "")
	}
	if strings.HasPrefix(m.source, "/dev/nbd") {
		e.add("storage below", subject, Problem, m.at+" is on "+m.source+": it may need the daemon that it is storage of", "move it to a disk of this host")
	}
	if !x.Storage.Direct && m.kind != "tmpfs" && m.kind != "ramfs" {
		e.add("O_DIRECT", subject, e.worstOf(Warning), path+" takes no O_DIRECT: pages go through the page cache, which takes the memory that they were to free", "use a partition, ext4 or xfs")
	}
	e.space(x, subject)
}

// worstOf is the state of what is the worse if this host swaps through the daemon.
func (e *examination) worstOf(otherwise string) string {
	if e.local() {
		return Problem
	}
	return otherwise
}

// space checks that a sparse file can become as large as its export.
func (e *examination) space(x admin.Export, subject string) {
	const check = "space"
	if e.Free == nil {
		return
	}
	free, err := e.Free(x.Storage.Path)
	if err != nil {
		e.unknown(check, subject, err)
		return
	}
	missing := x.SizeBytes - x.Storage.AllocatedBytes
	switch {
	case missing <= 0 || free >= uint64(missing):
		e.add(check, subject, OK, cli.Bytes(free)+" are free", "")
	case free < 64<<20:
		e.add(check, subject, Problem, fmt.Sprintf("the file system of %s is full: pages that memory has no room for are I/O errors", x.Storage.Path), "make room, or move it: export.storage in the configuration")
	default:
		e.add(check, subject, Warning, fmt.Sprintf("%s of %s that storage may still need are free", cli.Bytes(free), cli.Bytes(uint64(missing))), "make room before it is needed, or give the export a smaller size")
	}
}

// isMissing says whether a kernel lacks a file, which is no fault.
func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
