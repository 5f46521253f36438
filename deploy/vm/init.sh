#!/bin/busybox sh
# Process 1 of the virtual machine: attaches the swap device as an administrator would, and runs the guest program. Settings
# are kernel parameters; the kernel hands those it does not know to this script as environment variables.

run() {
	echo "init: $*"
	"$@" && return
	echo "init: FAILED with status $?: $*"
	busybox poweroff -f
}

run busybox mkdir /proc /sys
run busybox mount -t proc proc /proc
run busybox mount -t sysfs sysfs /sys
run busybox mount -t devtmpfs dev /dev
run busybox stty -F /dev/ttyS1 raw -echo
for module in /modules/*.ko; do
	run busybox insmod "$module"
done
run busybox ip link set lo up
run busybox ip address add 10.0.2.15/24 dev eth0
run busybox ip link set eth0 up
# A small machine that swaps over the network needs more in reserve than the kernel's default, or the card's
# driver waits for memory that only its own packets can free.
run busybox sysctl -w "vm.min_free_kbytes=$min_free_kib"

run /sbin/nbd-client 10.0.2.2 "$nbd_port" /dev/nbd0 -N "$nbd_export" -b 4096
run /sbin/mkswap /dev/nbd0
run /sbin/swapon --discard /dev/nbd0 # once and pages
run /bin/guest -mib "$data_mib" -seed "$seed" -workers "$workers"
echo "init: done"
busybox poweroff -f
