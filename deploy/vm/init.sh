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
run busybox rm -r /modules # they are loaded, and this is memory
run busybox ip link set lo up
run busybox ip address add 10.0.2.15/24 dev eth0
run busybox ip link set eth0 up
# A small machine that swaps over the network needs more in reserve than the kernel's default, or the card's
# driver waits for memory that only its own packets can free.
run busybox sysctl -w "vm.min_free_kbytes=$min_free_kib"

# A daemon of the guest's own, on its disk, with compressed memory that is taken at once if it protects itself.
daemon() {
	run busybox mkdir /state /dev/shm
	run busybox mount -t tmpfs shm /dev/shm # as every distribution has it; pages are kept there
	busybox cat >/state/tmemd.toml <<-END
		state_dir = "/state"
		metrics = "off"
		[[export]]
		name = "$nbd_export"
		storage = "/dev/vda"
		[[backend]]
		kind = "zcache"
		size = "24MiB"
		[host]
		protect = "$1"
		touch = $2
	END
	/bin/tmemd --config /state/tmemd.toml &
	until /bin/tmemctl --state-dir /state status >/dev/null 2>&1; do busybox sleep 0.2; done
	run /bin/tmemctl --state-dir /state attach /dev/nbd0 --export "$nbd_export" --detach
	echo -1000 >/proc/$$/oom_score_adj # of all that follows: if memory ends, the kernel is to kill what the test made for that
}

guest="-mib $data_mib -seed $seed -workers $workers"
case "$attach" in
agent) # requests that are five seconds old have their connections made anew, so that a test need not wait for thirty
	run /bin/tmemctl attach /dev/nbd0 --server "tcp://10.0.2.2:$nbd_port" --export "$nbd_export" --timeout 5s --detach
	run /bin/guest -agent $guest
	;;
disk) # a virtio disk of the machine's
	run /sbin/mkswap /dev/vda
	run /sbin/swapon --discard /dev/vda # once and pages
	run /bin/guest -disk -device /dev/vda $guest
	;;
own)
	# As tmemctl doctor advises where the kernel has it.
	busybox test ! -e /sys/kernel/mm/lru_gen/enabled || echo n >/sys/kernel/mm/lru_gen/enabled
	daemon on true
	run /bin/guest -agent $guest
	;;
own-naked)
	daemon off false
	run /bin/guest -agent $guest
	;;
*)
	run /sbin/nbd-client 10.0.2.2 "$nbd_port" /dev/nbd0 -N "$nbd_export" -b 4096
	run /sbin/mkswap /dev/nbd0
	run /sbin/swapon --discard /dev/nbd0 # once and pages
	run /bin/guest $guest
	;;
esac
echo "init: done"
busybox poweroff -f
