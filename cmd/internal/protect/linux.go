package protect

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// linux is this process and its kernel.
type linux struct{}

func (linux) lockAll() error {
	limit := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil && !capable(unix.CAP_IPC_LOCK) {
		var now unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &now); err != nil {
			return os.NewSyscallError("getrlimit", err)
		}
		if now.Cur != unix.RLIM_INFINITY { // H2
			return fmt.Errorf("only %d bytes may be locked", now.Cur)
		}
	}
	return os.NewSyscallError("mlockall", unix.Mlockall(unix.MCL_CURRENT|unix.MCL_FUTURE|unix.MCL_ONFAULT))
}

// touchCode brings the program itself into memory, where lockAll keeps it.
func (linux) touchCode() (err error) {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, maps.Close()) }()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		start, length, writable, ok := mappingOf(lines.Text(), program)
		if !ok {
			continue
		}
		advice := uintptr(unix.MADV_POPULATE_READ)
		if writable {
			advice = unix.MADV_POPULATE_WRITE
		}
		// By its number: Go's own memory is not to be made a slice of.
		_, _, errno := unix.Syscall(unix.SYS_MADVISE, start, length, advice)
		if errno != 0 && errno != unix.EINVAL { // before Linux 5.14: faults will do it
			return os.NewSyscallError("madvise", errno)
		}
	}
	return lines.Err()
}

// largestOwn is the longest mapping without a file that is taken for the
// runtime's books or the program's variables, in bytes. The heap's are longer.
const largestOwn = 4 << 20

// mappingOf reads a line of /proc/PID/maps that is about the program:
// "00400000-0072c000 r-xp 00000000 fd:00 1234 /usr/bin/tmemd", or about memory
// without a file that is short. What cannot be read is left out.
func mappingOf(line, file string) (start, length uintptr, writable, ok bool) {
	fields := strings.SplitN(line, " ", 6)
	if len(fields) < 6 || !strings.HasPrefix(fields[1], "r") {
		return 0, 0, false, false
	}
	name := strings.TrimSpace(fields[5])
	writable = fields[1] == "rw-p"
	if name != file && (name != "" || !writable) {
		return 0, 0, false, false
	}
	first, last, _ := strings.Cut(fields[0], "-")
	from, err1 := strconv.ParseUint(first, 16, 64)
	to, err2 := strconv.ParseUint(last, 16, 64)
	if err1 != nil || err2 != nil || to <= from {
		return 0, 0, false, false
	}
	if name == "" && to-from > largestOwn {
		return 0, 0, false, false
	}
	return uintptr(from), uintptr(to - from), writable, true
}

func (linux) setIOFlusher() error {
	_, _, errno := syscall.AllThreadsSyscall(syscall.SYS_PRCTL, unix.PR_SET_IO_FLUSHER, 1, 0)
	switch {
	case errno == syscall.ENOTSUP:
		return errCgo
	case errno != 0:
		return os.NewSyscallError("prctl", errno)
	}
	return nil
}

// setRealtime tries whether every thread may be put into the lowest round-robin
// class: not to be quick, but because the kernel lets such threads have a quarter of
// what it keeps free (vm.min_free_kbytes), where others wait in reclaim. It stays
// so with a process that is always urgent; see Report.Urgent.
func (linux) setRealtime() error { return setClass(classRoundRobin) }

func (linux) setOOMScore() error {
	return os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0o600)
}

// touchHeap makes room in the Go heap for what is to come, in memory that is
// there, and has the runtime keep it: a collection when the room is used up, by
// the limit, instead of one for each doubling, which would give memory back in
// between and fault it in again. It leaves settings alone that the environment
// gave.
func (linux) touchHeap(room Room) error {
	startThreads(room.Threads)
	objects := fillHeap(room.Heap)
	// Collected while they live and when they do not: the runtime's bitmaps and its
	// work buffers are memory, too, and are kept for reuse.
	collect := func() {
		for range 3 {
			runtime.GC()
		}
	}
	percent := debug.SetGCPercent(-1)
	collect()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	runtime.KeepAlive(objects)
	if os.Getenv("GOMEMLIMIT") != "" || os.Getenv("GOGC") != "" {
		debug.SetGCPercent(percent)
	} else {
		// All that the runtime has now, the room included, and a half more: beyond
		// that it would give memory back.
		debug.SetMemoryLimit(int64(stats.Sys-stats.HeapReleased) + room.Heap/2)
	}
	objects = nil
	collect()
	leaveRoom(room.Heap)
	return nil
}

// fillHeap allocates so many bytes and touches them: many small objects, each a
// span of its own, as the runtime's books of spans are memory, too.
func fillHeap(bytes int64) [][]byte {
	const span = 8 << 10
	objects := make([][]byte, bytes/span)
	for i := range objects {
		objects[i] = make([]byte, span)
		objects[i][0], objects[i][span/2] = 1, 1
	}
	return objects
}

// leaveRoom makes so much garbage and collects it, once. The runtime gives back to
// the kernel, within seconds, what is beyond what the last collection found in use,
// garbage included: a second one would find little. Later collections begin when the
// room is used up.
func leaveRoom(bytes int64) {
	fillHeap(bytes)
	runtime.GC()
}

// Settle is for a process that has made what it lives with: if that is more than
// the limit was made for, the limit is raised, so that the room stays.
func (r Report) Settle(room Room) {
	if !r.has(HeapTouched) || os.Getenv("GOMEMLIMIT") != "" || os.Getenv("GOGC") != "" {
		return
	}
	leaveRoom(room.Heap)
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	// What lives, what is not heap, and the room one and a half times over.
	want := int64(stats.HeapAlloc+stats.Sys-stats.HeapSys) + room.Heap*3/2
	if debug.SetMemoryLimit(-1) < want {
		debug.SetMemoryLimit(want)
	}
}

// startThreads makes the runtime start threads, which it keeps for system calls
// that wait.
func startThreads(n int) {
	var ready, done sync.WaitGroup
	leave := make(chan struct{})
	ready.Add(n)
	for range n {
		done.Go(func() {
			// A goroutine that is tied to a thread keeps it busy while it waits.
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			ready.Done()
			<-leave
		})
	}
	ready.Wait()
	close(leave)
	done.Wait()
}

func (linux) privileged() bool { return capable(unix.CAP_IPC_LOCK) || capable(unix.CAP_SYS_RESOURCE) }

// capable says whether the process has a capability now.
func capable(capability int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) != nil {
		return false
	}
	return data[capability/32].Effective&(1<<(capability%32)) != 0
}
