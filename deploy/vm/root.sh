#!/bin/busybox sh
# Process 1 of a virtual machine whose root file system is on an overlay: disk.sh has switched to it. Lines that begin with
# "result:" are what the test compares. $boot counts the starts from this overlay.

run() {
	echo "init: $*"
	"$@" && return
	echo "init: FAILED with status $?: $*"
	busybox poweroff -f
}

run busybox mount -t proc proc /proc
run busybox mount -t devtmpfs dev /dev
echo "result: root is $(busybox awk '$2 == "/" { root = $1 " " $3 } END { print root }' /proc/mounts)"
echo "result: tree $(cd /tree && busybox find . -type f | busybox sort | busybox xargs busybox sha256sum | busybox sha256sum)"

state() {
	busybox sha256sum </var/state
}

echo "result: boots before: $(busybox ls /var/boots | busybox tr '\n' ' ')"
echo "result: state before: $(state)"
# A part of a page, and pages: of the overlay's own from now on, the base is never written.
run busybox dd if=/bin/busybox of=/var/state bs=512 skip="$boot" seek=$((boot * 40 + 3)) count=21 conv=notrunc 2>/dev/null
run busybox touch "/var/boots/$boot"
after=$(state)
run busybox sync
echo 3 >/proc/sys/vm/drop_caches
run busybox test "$(state)" = "$after"
echo "result: state after: $after"
run busybox mount -o remount,ro /
echo "result: done"
busybox poweroff -f
