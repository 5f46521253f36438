package protect

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Scheduling classes of Linux, and the one priority that is used.
const (
	classOther      = 0
	classRoundRobin = 2
	lowestPriority  = 1
)

// setClass puts every thread of the process into a scheduling class. It names each
// one to the kernel, so that none has to be awake for it. New threads inherit the
// class of the one that makes them, which may be changed meanwhile: so it looks
// until there is none to be changed.
func setClass(class int) error {
	const rounds = 16 // enough for any thread that is being made
	for range rounds {
		changed, err := setClassOnce(class)
		if err != nil || changed == 0 {
			return err
		}
	}
	return nil
}

func setClassOnce(class int) (changed int, err error) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return 0, err
	}
	for _, task := range tasks {
		id, err := strconv.Atoi(task.Name())
		if err != nil {
			continue
		}
		attributes, err := unix.SchedGetAttr(id, 0)
		if errors.Is(err, unix.ESRCH) {
			continue // it ended
		}
		if err != nil {
			return changed, os.NewSyscallError("sched_getattr", err)
		}
		if int(attributes.Policy) == class {
			continue
		}
		attributes.Policy, attributes.Priority = uint32(class), 0
		if class == classRoundRobin {
			attributes.Priority = lowestPriority
		}
		err = unix.SchedSetAttr(id, attributes, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return changed, os.NewSyscallError("sched_setattr", err)
		}
		changed++
	}
	return changed, nil
}

// Urgent puts the process into a realtime class, or back. It is for as long as
// this host swaps through it: in that class the kernel wakes each thread at once,
// whatever it takes the processor from, and serving the same requests takes nearly
// twice the processor's time. It does nothing if Realtime was not asked for or
// refused.
func (r Report) Urgent(on bool) error {
	if !r.has(Realtime) {
		return nil
	}
	return SetUrgent(on)
}

// SetUrgent is Report.Urgent of a process that has no report yet.
func SetUrgent(on bool) error {
	if on {
		return setClass(classRoundRobin)
	}
	return setClass(classOther)
}

// IsUrgent says whether the calling thread is in the realtime class: at the start of
// a process, whether whoever made it was.
func IsUrgent() bool {
	attributes, err := unix.SchedGetAttr(0, 0)
	return err == nil && attributes.Policy == classRoundRobin
}
