// Package interop runs the built commands as an operator does, and attaches NBD
// clients that others wrote: nbdinfo, nbdcopy, libnbd, qemu-io, qemu-img, fio,
// nbd-client and nbdkit. What the daemon shows is looked at by Chromium and promtool. Its tests need the build tag interop, root (or a sudo
// that asks for no password) and the Debian packages that `make deps` installs.
//
//	make interop
//	go test -tags interop -run TestDiskFull -v ./deploy/interop
//
// # What is tested
//
//	clients_test.go     every client, against each of the three grounds below
//	terminate_test.go   SIGTERM while a drain is stuck or slow
//	stuckdisk_test.go   storage that does not answer
//	diskfull_test.go    storage without room
//	vanish_test.go      clients that go away in the middle of a request
//	tls_test.go         TLS with certificates of clients: nbdinfo, nbdcopy, qemu-io,
//	                    qemu-img, qemu-nbd, nbdkit; who is refused; a reload
//	statuspage_test.go  the status page in Chromium, live under load; TMEMD_PICTURES=DIR keeps
//	                    the pictures
//	promtool_test.go    metrics, rules with their tests, and the dashboard's queries, by promtool
//	activation_test.go  sockets of a service manager; no descriptors left
//	signal_test.go      SIGKILL and what the next start says; a lost terminal or log
//	loopdevice_test.go  storage on a block device
//	bench_test.go       tmemctl bench beside fio on the same server: counts; rates are printed
//
// The grounds: no backend; zcache; zcache loaded and unloaded in a loop by
// tmemctl for as long as the clients run.
//
// # Rules
//
//	W1  The tests build the commands themselves, static as they are shipped.
//	W2  Content is never zeros alone: pages are text, records or noise, derived
//	    from their number and how often they were written (see page).
//	W3  A promise about data is checked against a ledger of what was acknowledged,
//	    after the fault and again after a restart.
//	W4  A disk is made slow by freezing its file system, and full by filling it:
//	    both are exact, so nothing depends on time.
//	W5  Every process ends with its test, however that ends. Mounts are private to
//	    the tests' own process, which TestMain starts as root.
//
// # Not tested here
//
// The kernel's own NBD client: that is the test with a VM. Hostile clients: they
// are package nbd's.
package interop
