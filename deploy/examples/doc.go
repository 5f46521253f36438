// Package examples holds configurations for four sorts of users, each with a README that says what to type and what to expect;
// README.md lists them. Nobody imports it.
//
// Its test installs the Debian package on machines of its own (deploy/isolated), types what each README says to root there, with the
// files as they are, and then is a client: it writes pages and reads them back, over a Unix socket, TLS, QEMU, or another host's
// memory.
//
// Not promised: what is for the kernel of a real host is not run there, and listed in the test, as swap is not isolated; deploy/vm has such.
package examples
