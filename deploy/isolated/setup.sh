# The first process of an isolated machine, in new namespaces: makes the root, and becomes systemd, or something that only waits.
# $1 is systemd or none, $2 a name for the control group.
set -eu
mount --make-rprivate /
if [ "${3:-}" != again ]; then
	# The control group comes first: what systemd sees of the tree begins there.
	mount -t tmpfs tmpfs /mnt
	mkdir /mnt/cgroup
	mount -t cgroup2 cgroup2 /mnt/cgroup
	mkdir "/mnt/cgroup/$2"
	echo 0 >"/mnt/cgroup/$2/cgroup.procs"
	exec unshare --cgroup sh "$0" "$1" "$2" again
fi
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
cd /mnt/root
for folder in proc sys dev run tmp upper old; do
	mkdir -p "$folder"
done
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
if [ -e proc/sysrq-trigger ]; then
	mount --bind proc/sysrq-trigger proc/sysrq-trigger
	mount -o remount,bind,ro proc/sysrq-trigger
fi
mount -t sysfs -o ro sysfs sys
mount -t tmpfs tmpfs sys/fs/cgroup
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount --bind /mnt/upper upper
mount -t tmpfs -o mode=755 tmpfs dev
# Nodes of its own: systemd gives the console to another group, which must not be this machine's /dev/null.
for device in null:3 zero:5 full:7 random:8 urandom:9; do
	mknod -m 666 "dev/${device%:*}" c 1 "${device#*:}"
done
mknod -m 666 dev/tty c 5 0
mknod -m 600 dev/console c 1 3
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
ip link set lo up
pivot_root . old
umount -l old
case $1 in
systemd)
	: >/etc/machine-id
	# Nothing that this machine starts, but what every machine does; and nothing that is in a container's way.
	rm -rf /etc/systemd/system/*.wants /usr/sbin/policy-rc.d
	ln -sf /usr/lib/systemd/system/basic.target /etc/systemd/system/default.target
	export container=tmemd-test
	exec /lib/systemd/systemd --system --log-target=null --show-status=0
	;;
*)
	touch /run/ready
	exec sleep infinity
	;;
esac
