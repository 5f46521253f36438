#!/bin/sh
# Runs a virtual machine whose second disk is an export of tmemd: vm.sh EXPORT DISK [QEMU OPTION]...
# DISK is the image that it boots from. In the machine: mkswap /dev/vdb, swapon --discard /dev/vdb.
set -eu
export=$1 disk=$2
shift 2
# discard: what the machine frees is freed here. reconnect-delay: requests wait so many seconds for a daemon that is restarted
# or upgraded, instead of failing.
exec qemu-system-x86_64 -accel kvm -accel tcg -m 1G -smp 2 \
	-drive "file=$disk,format=raw,if=virtio" \
	-drive "file=nbd+unix:///$export?socket=/run/tmemd/nbd.sock,format=raw,if=virtio,id=swap,cache=none,discard=unmap,file.reconnect-delay=600" \
	"$@"
