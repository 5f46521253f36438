#!/bin/busybox sh
# Process 1 of a guest that runs ordinary programs and has them swapped out. The host sends lines
# to the console: first "go PORT SEED", the swap server's port and what this guest's visitors are drawn
# from, then "go" for each further phase. Lines that begin with "dedup:" are for the host.

run() {
	"$@" && return
	echo "dedup: failed with status $?: $*"
	busybox poweroff -f
}

run busybox mkdir -p /proc /sys /tmp /dev
run busybox mount -t proc proc /proc
run busybox mount -t sysfs sysfs /sys
run busybox mount -t devtmpfs dev /dev
run busybox mount -t cgroup2 cgroup /sys/fs/cgroup
for module in /modules/*.ko; do
	run busybox insmod "$module"
done
run busybox ip link set lo up
run busybox ip address add 10.0.2.15/24 dev eth0
run busybox ip link set eth0 up
# What is swapped is to be the memory of programs; the image stays where it is, in a ramfs.
run busybox sysctl -q -w vm.min_free_kbytes=32768 vm.swappiness=200 vm.page-cluster=0
group=/sys/fs/cgroup/programs
run busybox mkdir $group
echo +memory >/sys/fs/cgroup/cgroup.subtree_control

python() {
	(
		echo 0 >$group/cgroup.procs
		cd /programs && exec /usr/bin/python3.11 "$@"
	)
}

# A site with workers, forked after it was loaded, and two programs of their own.
python -m gunicorn --preload --timeout 1000 --log-level warning -w 3 -b 127.0.0.1:8000 shop:application &
python reader.py /usr/lib/python3.11/asyncio 12 &
python reader.py /usr/lib/python3.11/email 12 &
python visitors.py 8000 "$warm" "$warm_seed" || run false
busybox sleep 5

amount() { busybox awk "/^$1:/ { print \$2 }" /proc/meminfo; }

# Everything that the programs have in memory goes out, until hardly anything more does.
reclaim() {
	before=-1
	left=12
	while busybox test $left -gt 0; do
		echo 64M >$group/memory.reclaim 2>/dev/null
		after=$(amount SwapFree)
		if busybox test "$before" -ge 0 && busybox test $((before - after)) -lt 512; then break; fi
		before=$after
		left=$((left - 1))
	done
}

echo "dedup: ready"
read -r go port seed
run /sbin/nbd-client 10.0.2.2 "$port" /dev/nbd0 -N swap -b 4096
run /sbin/mkswap /dev/nbd0
run /sbin/swapon --discard /dev/nbd0
for phase in 1 2 3; do
	python visitors.py 8000 "$visits" "$seed-$phase" || run false
	reclaim
	echo "dedup: swapped $(($(amount SwapTotal) - $(amount SwapFree))) $(amount AnonPages) $(amount Shmem)"
	read -r go
done
busybox poweroff -f
