#!/bin/bash
# What a new user does, in a virtual machine with Debian: the commands are README.md's, in files that the test wrote. Runs as a
# service; lines that begin with "result:" or "FAILED:" are for the test.
fail() {
	echo "FAILED: $*"
	journalctl --no-pager -n 40
	cat /tmp/daemon.log /proc/swaps /proc/meminfo
	sync
	systemctl poweroff -ff
}

# What the doctor finds here is for the administrator of so small a machine; what tmemd and its units answer for is in order.
examine() {
	tmemctl doctor >/tmp/doctor 2>&1
	cat /tmp/doctor
	grep -q '^[0-9]* problems' /tmp/doctor || fail "the doctor says nothing"
	grep -E '^problem +(daemon|/dev/nbd)' /tmp/doctor && fail "the doctor finds a problem of ours"
	return 0
}

# Types the commands of a file, one after the other.
type_all() {
	while read -r command <&3; do
		echo "typed: $command (after $SECONDS s)"
		if [ "$command" = "tmemctl doctor" ]; then
			examine
			continue
		fi
		(eval "$command") </dev/null || fail "$command"
	done 3<"$1"
}

counter() { sed -n "s/^$1 //p" /proc/vmstat; }

# Writes more pages than a control group may have in memory, does what is in a file, if any, and reads all back.
group=/sys/fs/cgroup/content
content() { seq 10000000 19999999 | head -c "${mib}M" 2>/dev/null; }
swap() {
	local out in
	out=$(counter pswpout) in=$(counter pswpin)
	echo "typed: nothing, but writes (after $SECONDS s)"
	mount -t tmpfs -o size=1g tmpfs /mnt || fail "mount a tmpfs"
	(echo 0 >$group/cgroup.procs && content 2>/dev/null >/mnt/pages) || fail "write $mib MiB"
	[ -z "$1" ] || type_all "$1"
	echo "typed: nothing, but reads (after $SECONDS s)"
	(echo 0 >$group/cgroup.procs && content 2>/dev/null | cmp - /mnt/pages) || fail "$mib MiB are not what was written"
	umount /mnt
	out=$(($(counter pswpout) - out)) in=$(($(counter pswpin) - in))
	[ $out -gt $((mib * 128)) ] && [ $in -gt $((mib * 128)) ] || fail "only $out pages went out and $in came in"
	echo "result: $mib MiB right, $out pages went out, $in came in (after $SECONDS s)"
}
mkdir $group && echo "$((mib / 3))M" >$group/memory.max || fail "limit memory"

# From a fresh clone, built.
sudo() { "$@"; }
cd /src/tmemd || fail "there is no clone"
eval "$(cat /readme/start)" >/tmp/daemon.log 2>&1 &
daemon=$!
for i in $(seq 300); do
	grep -q -- --detach /tmp/daemon.log && break
	sleep 0.1
done
# What README.md shows is what is printed.
sed -n '/^to swap to it on this host/,$s/^  //p' /tmp/daemon.log | grep -v '^ *level' >/tmp/printed
cmp /tmp/printed /readme/attach || fail "the daemon prints other commands"
type_all /readme/attach
swap /readme/use
echo "result: $(grep -c nbd0 /proc/swaps) device of the clone's swaps"
bin/tmemctl detach /dev/nbd0 || fail "detach"
kill -TERM "$(bin/tmemctl --state-dir var status --json | sed -n 's/^  "pid": \([0-9]*\),/\1/p')"
wait $daemon || fail "the daemon ended with $?"

# From the package.
cd / || fail "cd"
type_all /readme/install
[ "$(swapon --noheadings --show=NAME)" = /dev/nbd0 ] || fail "swap is $(swapon --show)"
tmemctl status --json | sed -n 's/^ *"state": "\(.*\)".*/\1/p' | sort | uniq -c >/tmp/protection
grep -q ' refused' /tmp/protection && fail "not protected: $(tmemctl status --json)"
swap ""
main=$(systemctl show -P MainPID tmemd)
[ "$(stat -c %U /proc/$main)" = tmemd ] && [ "$(cat /proc/$main/oom_score_adj)" = -1000 ] || fail "process $main is not as its unit says"
dpkg -r tmemd 2>/tmp/refusal && fail "the package was removed under swap"
grep -q 'tmemctl detach /dev/nbd0' /tmp/refusal || fail "the refusal says $(cat /tmp/refusal)"
type_all /readme/remove
[ -z "$(swapon --noheadings --show)" ] && [ ! -e /usr/bin/tmemd ] || fail "not removed"
systemctl --failed --no-legend | grep -q tmem && fail "units failed: $(systemctl --failed --no-legend)"
echo "result: done"
sync
systemctl poweroff -ff
