#!/bin/busybox sh
# Process 1 of a virtual machine that works on a file system on a disk of tmemd's. Settings are kernel parameters, which the
# kernel hands to this script as environment variables. Lines that begin with "result:" are what the test compares.

run() {
	echo "init: $*"
	"$@" && return
	echo "init: FAILED with status $?: $*"
	busybox poweroff -f
}

run busybox mkdir /proc /sys /mnt
run busybox mount -t proc proc /proc
run busybox mount -t sysfs sysfs /sys
run busybox mount -t devtmpfs dev /dev
for module in /modules/*.ko; do
	run busybox insmod "$module"
done
run busybox ip link set lo up
run busybox ip address add 10.0.2.15/24 dev eth0
run busybox ip link set eth0 up
case "$attach" in
agent) run /bin/tmemctl attach /dev/nbd0 --server "tcp://10.0.2.2:$nbd_port" --export "$disk" --no-swap --timeout 5s --detach ;;
*) run /sbin/nbd-client 10.0.2.2 "$nbd_port" /dev/nbd0 -N "$disk" -b 4096 -C 2 ;;
esac
run busybox mount -t ext4 -o noatime /dev/nbd0 /mnt

# The hash of the names and contents of all files.
hash() {
	(cd /mnt && busybox find . -type f | busybox sort | busybox xargs busybox sha256sum | busybox sha256sum)
}

# What is read next comes from the device.
drop() {
	run busybox sync
	echo 3 >/proc/sys/vm/drop_caches
}

work() {
	for round in 1 2 3; do
		run busybox mkdir "/mnt/$round"
		run busybox tar xf /tree.tar -C "/mnt/$round"
		echo "result: round $round untarred $(hash)"
		n=0
		for file in $(busybox find "/mnt/$round" -type f | busybox sort); do
			n=$((n + 1))
			case $((n % 5)) in
			0) busybox dd if=/tree.tar of="$file" bs=512 skip="$n" seek=1 count=3 conv=notrunc 2>/dev/null ;;
			1) busybox rm "$file" ;;
			esac
		done
		before=$(hash)
		drop
		after=$(hash)
		echo "result: round $round rewritten $after"
		run busybox test "$before" = "$after"
		drop
		run busybox test "$(hash)" = "$after"
	done
	run busybox rm -r /mnt/2
	drop
	echo "result: at the end $(hash)"
}

# The disk is the root from here on: root.sh goes on as process 1. What is in memory now is given back.
boot() {
	run busybox umount /sys
	run busybox umount /proc
	run busybox umount /dev
	exec busybox switch_root /mnt /sbin/init
}

"$scenario"
case "$attach" in
agent)
	case "$(/bin/tmemctl detach /dev/nbd0 2>&1)" in
	*"umount it first"*) ;;
	*) echo "result: a disk that is mounted was not refused to be detached" ;;
	esac
	run busybox umount /mnt
	run /bin/tmemctl detach /dev/nbd0
	;;
*)
	run busybox umount /mnt
	run /sbin/nbd-client -d /dev/nbd0
	;;
esac
echo "result: done"
busybox poweroff -f
