// Package isolated makes a machine out of this one for a test, in a second and without a copy: its root is an overlay over this
// machine's, what is written goes to memory, and processes, network, host name and /dev/shm are its own. A package is installed there
// and a daemon run as its unit says, and at the end nothing of it was ever here.
//
// Tests in deploy call [Start]; nobody else does. It takes root, and a kernel with overlay file systems.
//
// # Invariants
//
//	L1  Nothing that runs there can change a file, a kernel setting or an interface of this machine. /proc/sys and /sys are
//	    read-only.
//	L2  Nothing outlives the test, even one that is killed: with the first process all others end, and mounts with them.
//
// # Not promised
//
// That it keeps a hostile program in: it shares the kernel, root is root, and swapon there is swapon here (tests do not). Services of
// this machine are not started there, only what basic.target wants.
package isolated
