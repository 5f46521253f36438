package protect

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Regain takes back at once what execve takes from a process that was protected: its
// memory is not locked any more, and the new program's may be swapped out before
// Apply gets to it. Apply does the same again, and reports what is refused.
func Regain() {
	_ = linux{}.lockAll()
	_ = linux{}.touchCode()
}

// KernelRelease is the kernel's, "6.12.1".
func KernelRelease() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}

// LendsHalf says whether a kernel of that release lets threads of a realtime class
// have half of what it keeps free (vm.min_free_kbytes), as Linux 6.3 and later do;
// before it is a quarter. What is no release of Linux does not.
func LendsHalf(release string) bool {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n < 2 {
		return false
	}
	return major > 6 || major == 6 && minor >= 3
}

// KeepFile has a file stay in memory as long as the process lives, which has its
// memory locked: on a tmpfs it would be swapped out, and elsewhere dropped.
func KeepFile(path string) error {
	fail := func(err error) error { return fmt.Errorf("keep %s in memory: %w", path, err) }
	file, err := os.Open(path)
	if err != nil {
		return fail(err)
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return fail(err)
	}
	if !st.Mode().IsRegular() || st.Size() == 0 {
		return nil
	}
	data, err := unix.Mmap(int(file.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fail(os.NewSyscallError("mmap", err))
	}
	for {
		err := unix.Madvise(data, unix.MADV_POPULATE_READ)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case err != nil && !errors.Is(err, unix.EINVAL): // before Linux 5.14: faults would do it
			return fail(os.NewSyscallError("madvise", err))
		}
		return nil
	}
}
