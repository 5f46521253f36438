// Package systemd holds unit files, and the test that systemd has no complaint
// about them. Nobody imports it.
//
//	tmemd.service              the daemon
//	tmem-swap@.service         swap on a device, to the daemon on this host
//	tmem-swap-remote@.service  swap on a device, to a daemon on another host
//	tmemd.sysusers             the daemon's user, for /usr/lib/sysusers.d/tmemd.conf
//	tmemd.tmpfiles             a folder for sockets that others may connect to, for /usr/lib/tmpfiles.d/tmemd.conf
//
// # How to install them
//
// The Debian package does it (`make deb`). By hand:
//
//	install -m 755 bin/tmemd bin/tmemctl /usr/bin/
//	install -m 644 deploy/systemd/*.service /etc/systemd/system/
//	install -m 644 deploy/systemd/tmemd.sysusers /usr/lib/sysusers.d/tmemd.conf && systemd-sysusers
//	install -m 644 deploy/systemd/tmemd.tmpfiles /usr/lib/tmpfiles.d/tmemd.conf && systemd-tmpfiles --create tmemd.conf
//	systemctl daemon-reload
//	systemctl enable --now tmemd.service tmem-swap@nbd0.service
//
// Flags of the daemon go to /etc/default/tmemd, TMEMD_OPTIONS="--config …"; those of an attachment to /etc/tmemd/nbd0.env,
// TMEM_SWAP_OPTIONS="--priority …". For another host's export: --server tcp://HOST:PORT there, and tmem-swap-remote@nbd0.
//
// # The order
//
//	boot:      tmemd.service → tmem-swap@ → swap.target → sysinit.target → everything else
//	           … → network-online.target → tmem-swap-remote@ → remote-fs.target → user sessions
//	shutdown:  the other way round: programs end first, and with them most of what is swapped out; then tmem-swap@ swaps off and
//	           disconnects; then the daemon, which has no client left to wait for, moves its pages to storage and ends
//
// U1  There is no loop. /tmp on memory is mounted after swap.target, and local-fs.target after that: so nothing here comes after
// local-fs.target, or needs /tmp (PrivateTmp= would). What comes after the network comes after swap.target, hence the second unit.
//
// U2  Swap goes off before the daemon stops, as tmem-swap@ starts after it; and the daemon may be restarted without swap going
// off, as tmem-swap@ only wants it. (tmemd waits on SIGTERM until the last client has left: to restart it under swap needs state
// that outlives the process, which is to come.)
//
// U3  Neither is killed while pages could be lost: no SIGKILL after a timeout, and no kill for want of memory.
//
// # Not promised
//
// A daemon with storage on a block device, or a TLS key outside its folder, needs a drop-in that lets it: see the units' comments.
package systemd
