// Package vm runs a stock Debian kernel in a virtual machine, so that tmemd is tested against the one client that matters: a
// kernel that swaps.
//
// Nobody imports it; `make e2e` runs its test, e2e_test.go. QEMU emulates the processor, so no hardware support is
// needed. Everything comes from Debian packages: the kernel is downloaded and unpacked, not installed, and the initramfs
// is made of this machine's busybox, nbd-client and util-linux. The guest attaches the export with the stock
// nbd-client over TCP, then mkswap and swapon --discard, as an administrator would; or with tmemctl attach.
//
// # What it proves
//
// In one run, the guest swapping all the time: no backend, `tmemctl backend load zcache`, `tmemctl backend unload
// zcache`, loaded again with too little room, squeezed and given room by `tmemctl backend set`, swapoff. Of about three times the memory that the guest has for programs,
// every byte that comes back from swap is compared with what was written (V1). In every phase the guest's own counters
// show pages going out and coming in, and tmemd's counters change as the design says. The unloaded backend's
// memory is back with the system by the kernel's account. At the end the guest's log is free of errors, and tmemd was sent
// exactly as many bytes as the guest's kernel says that it swapped out.
//
// In a second run a random operator loads, unloads, replaces, freezes, shrinks and resizes what he likes.
//
// In a third, attached by tmemctl, tmemd outside is stopped for longer than the age at which requests' connections are made anew
// (30 s, with that age set to 5 s), its TCP connections are cut, it is killed with SIGKILL and started again three
// times, and upgraded. The backend and its pages are there for each next process, every byte is right, and the guest's log tells
// of dead connections and nothing worse.
//
// In a fourth, tmemd runs in the guest, on a disk of the guest's, and the guest swaps to it: memory is exhausted all the time,
// processes are killed over it, a backend is drained and loaded, tmemd is upgraded (on 6.12; on 6.1 it has to refuse). tmemctl doctor in the guest finds every protection in place. If
// the kernel finds no memory at all it may kill the process that was made to take it, and nobody else. Without the
// protections the same hangs or not, as it happens: -tags 'e2e unprotected' runs that, and says which.
//
// In a fifth, the guest's pages are in the memory of two other hosts, network namespaces on a bridge, over mutual TLS. One is killed and
// comes back with what it had; one is cut off, then both; a third is added and the first removed, the owner killed meanwhile; one
// comes back with nothing; the backend is unloaded. No page is lost or wrong, those that wait for a host are waited for, and in the end
// no host has any.
//
// In a sixth there are three machines at once. Each swaps to a virtio disk that QEMU makes of an export, and the pool is too small for
// all: clients get memory by their weights, one with a reservation is not pushed below it, one is frozen and thawed, and the export of
// one moves to a second tmemd and back while it swaps, QEMU connecting again through a symbolic link that is switched.
//
// Two more are about disks. A guest untars, hashes, rewrites and deletes on an ext4 file system, and reads it back from the
// device again and again, while backends are loaded, replaced, frozen and unloaded, squeezed to 1 MiB, the least that there may be,
// and given room; and once more with backends that lose single pages, or every one, and take some, or none, while tmemd is killed
// and started again, the device attached by tmemctl --no-swap. It finds the same as in a run without any, and e2fsck finds nothing. Guests have their root on overlays over one base: the initramfs attaches the
// overlay and switches to it. The second boot from one, and another guest's from another, read from storage less than a
// tenth of what the first boot did.
//
// A last one is a new user: a machine with Debian and systemd on its disk, made of packages that are installed here, types what README.md
// says, from a fresh clone and from the Debian package, to swap that is in use. The units do there what they say: the daemon is ready when
// systemctl returns, every protection is in place, and the package is not removed under swap.
//
// # What runs where
//
//	test                            make e2e              make e2e-all
//	TestDiskUnderBackends           the first named, 6.1  each kernel
//	TestBootFromOverlay             the first named, 6.1  each kernel
//	TestSwapWhileBackendsComeAndGo  each kernel           each kernel
//	TestSwapThroughRandomEvents     each kernel           each kernel
//	TestSwapThroughInterruptions    the first named, 6.1  each kernel
//	TestSwapToOwnHost               the last named, 6.12  each kernel
//	TestSwapToOtherHosts            the last named, 6.12  each kernel
//	TestMachinesShareAPool          the last named, 6.12  each kernel
//	TestReadme                      the last named, 6.12  each kernel
//
// The first two have their kernels side by side, the others have the test machine for themselves.
//
// # Invariants
//
//	V1  One wrong byte, one page that cannot be read, one complaint of the kernel ends the run as failed.
//	V2  A guest that makes no progress is a failure, not a slow run: the watchdog says which tasks are blocked.
//	V3  The host acts only at points that the guest has confirmed; no step depends on how fast anything is.
//	V4  Nothing outlives a run but the kernel cache: QEMU and tmemd end with the test, even with one that is killed.
//	V5  The same kernel, tools and guest program give the same initramfs, byte for byte.
//	V6  Two runs at once have no network and no memory in common, and what a killed run left of these is removed by the next.
//
// # Life of a machine
//
//	state     entered by                   left by
//	booting   Start                        the guest's first report, "filled"
//	swapping  that, then each BeginPhase   Stop
//	stopped   Stop: everything verified    Swapoff
//	off       Swapoff: the rest verified   Detach
//	ended     Detach, Close, any failure   -
//
// # Locks
//
// Machine.mu and console.mu, neither held while anything else is waited for.
//
// # Not promised
//
// Speed: emulation is ten to a hundred times slower than a processor. A restart of tmemd under swap that nbd-client attached: it
// makes no connection anew. Kernels other than Debian's 6.1 and 6.12 cloud kernels; they behave differently enough that both are worth running.
//
// # How to run it
//
//	go test -tags e2e -count=1 -timeout 20m -v ./deploy/vm
//
// A run takes one and a half to two and a half minutes on two cores. The first one downloads the kernel, 27 MB (6.1) or 34 MB (6.12).
//
//	TMEMD_VM_KERNEL  kernel series, separated by commas; default 6.1. Each is a subtest: 6.1,6.12 runs both
//	TMEMD_VM_ALL     if it is set, every test runs on each of them
//	TMEMD_VM_CACHE   where kernels are kept; default .cache/vm at the top of the repository. Remove it to get newer ones
//	TMEMD_VM_SEED    seed of the guest's content and choices; default random. Each run prints its own
//
// TestSwapToOtherHosts and TestNetworksDoNotClash make network namespaces, which takes root; without it they fail.
// A tool that is missing is named together with its Debian package.
package vm
