// Package systemd is the little that both commands say to a service manager:
// that they are ready, and how they are. By the protocol of sd_notify(3).
package systemd
