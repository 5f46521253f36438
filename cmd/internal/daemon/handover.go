package daemon

import (
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// heirVariable tells a process what it was given by the one before it: what it is to
// do, then names and descriptors, "run lock=3 memory=4 nbd0=5", and the process id of
// a child that it has to wait for, "child=4712".
const heirVariable = "TMEMD_HANDOVER"

// What a process does with what it was given.
const (
	heirRehearses = "rehearse" // find out whether it could take over
	heirRuns      = "run"      // take over
)

// handover is what one program gives to the next.
type handover struct {
	names []string
	files []*os.File
	own   []*os.File // of files, those to be closed
	child int        // process id of a child that is handed over, or 0
}

func (h *handover) add(name string, f *os.File) {
	h.names, h.files = append(h.names, name), append(h.files, f)
}

// childWord is the name of the child's process id, beside the names of files.
const childWord = "child"

// locks is the part of it that a rehearsal needs.
func (h *handover) locks() *handover {
	l := &handover{}
	for i, name := range h.names {
		if name == "lock" || name == "memory" {
			l.add(name, h.files[i])
		}
	}
	return l
}

// describe is the environment of a process that has the files under descriptors.
func (h *handover) describe(what string, descriptor func(i int) int) string {
	words := []string{what}
	for i, name := range h.names {
		words = append(words, name+"="+strconv.Itoa(descriptor(i)))
	}
	if h.child != 0 {
		words = append(words, childWord+"="+strconv.Itoa(h.child))
	}
	return heirVariable + "=" + strings.Join(words, " ")
}

// become makes this process another program. It returns if it cannot.
func (h *handover) become(program string) error {
	descriptors := make([]int, len(h.files))
	for i, f := range h.files {
		var err error
		if descriptors[i], err = descriptorOf(f); err != nil {
			return fmt.Errorf("hand over: %w", err)
		}
	}
	for _, fd := range descriptors {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("hand over: %w", os.NewSyscallError("fcntl", err))
		}
	}
	environment := append(os.Environ(), h.describe(heirRuns, func(i int) int { return descriptors[i] }))
	err := unix.Exec(program, os.Args, environment)
	for _, fd := range descriptors {
		unix.CloseOnExec(fd)
	}
	return fmt.Errorf("become the new program: %w", os.NewSyscallError("execve", err))
}

// descriptorOf is File.Fd without making the file blocking, which a listener must
// not be: it shares that with its duplicates.
func descriptorOf(f *os.File) (fd int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	return fd, raw.Control(func(d uintptr) { fd = int(d) })
}

// listener makes a listener of the socket of that name.
func (h *handover) listener(name string) (net.Listener, error) {
	for i := range h.names {
		if h.names[i] != name {
			continue
		}
		l, err := net.FileListener(h.files[i])
		if err != nil {
			return nil, fmt.Errorf("take a socket over: %w", err)
		}
		unlinkOnClose(l, true)
		return l, nil
	}
	return nil, fmt.Errorf("no socket %s was handed over", name)
}

func (h *handover) close() {
	for _, f := range h.own {
		f.Close()
	}
	h.own = nil
}

// Heir is what this process was given by the one before it.
type Heir struct {
	rehearses bool
	files     map[string]*os.File
	holder    *os.File // see letGo; nil if there is none
	child     int      // process id of the child that was handed over, or 0
}

// NewHeir reads what the environment says, and takes it out of there; nil if
// nothing was given. REQUIRES: called once, before anything else opens files.
func NewHeir() (*Heir, error) {
	text, given := os.LookupEnv(heirVariable)
	if !given {
		return nil, nil
	}
	if err := os.Unsetenv(heirVariable); err != nil {
		return nil, err
	}
	words := strings.Fields(text)
	if len(words) == 0 || words[0] != heirRehearses && words[0] != heirRuns {
		return nil, fmt.Errorf("%s=%q says nothing that is known here", heirVariable, text)
	}
	h := &Heir{rehearses: words[0] == heirRehearses, files: map[string]*os.File{}}
	for _, word := range words[1:] {
		name, number, _ := strings.Cut(word, "=")
		fd, err := strconv.Atoi(number)
		if name == childWord && err == nil && fd > 1 {
			h.child = fd
			continue
		}
		if err != nil || fd < 3 {
			return nil, fmt.Errorf("%s=%q: %q is no descriptor", heirVariable, text, word)
		}
		unix.CloseOnExec(fd)
		called := name
		if rest, inherited := strings.CutPrefix(name, inheritedPrefix); inherited {
			called, _, _ = strings.Cut(rest, "/")
		}
		h.files[name] = os.NewFile(uintptr(fd), called)
	}
	h.holder = h.take(holderPipe)
	if h.files["lock"] == nil || h.files["memory"] == nil {
		return nil, fmt.Errorf("%s=%q: the locks are missing", heirVariable, text)
	}
	return h, nil
}

// take takes a file out of what was given: nil if there is none.
func (h *Heir) take(name string) *os.File {
	if h == nil {
		return nil
	}
	f := h.files[name]
	delete(h.files, name)
	return f
}

// inheritedPrefix is how names of sockets begin that the service manager handed to
// the first of these processes. What it called them follows, then a number.
const inheritedPrefix = "inherited/"

// inherited takes those sockets.
func (h *Heir) inherited() (files []*os.File) {
	if h == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(h.files)) {
		if strings.HasPrefix(name, inheritedPrefix) {
			files = append(files, h.take(name))
		}
	}
	return files
}

// listener takes the socket of that name, if it is bound to the address.
func (h *Heir) listener(name, network, address string) (net.Listener, bool) {
	f := h.take(name)
	if f == nil {
		return nil, false
	}
	defer f.Close()
	l, err := (&handover{names: []string{name}, files: []*os.File{f}}).listener(name)
	if err != nil {
		return nil, false
	}
	here := l.Addr()
	if here.Network() == network && (here.String() == address || strings.HasSuffix(address, ":0")) {
		return l, true
	}
	l.Close() // of another configuration, with its socket file
	return nil, false
}

// runs says whether there was a process before this one that is now this one.
func (h *Heir) runs() bool { return h != nil && !h.rehearses }

// close closes what nobody took: sockets of addresses that are not served any more,
// with their files.
func (h *Heir) close() {
	if h == nil {
		return
	}
	for _, f := range h.files {
		if l, err := net.FileListener(f); err == nil {
			unlinkOnClose(l, true)
			l.Close()
		}
		f.Close()
	}
}
