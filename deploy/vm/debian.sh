#!/bin/busybox sh
# Process 1 of a virtual machine with Debian on its disk: hands over to what is there.
busybox mkdir -p /proc /dev /root
busybox mount -t proc proc /proc
busybox mount -t devtmpfs dev /dev
for module in /modules/*.ko; do
	case $module in
	*nbd.ko) ;; # for modprobe
	*) busybox insmod "$module" || busybox poweroff -f ;;
	esac
done
busybox mount -t ext4 /dev/vda /root || busybox poweroff -f
busybox umount /proc
busybox mount --move /dev /root/dev
exec busybox switch_root /root /lib/systemd/systemd
