package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// memory checks how the kernel is set up to reclaim.
func (e *examination) memory() {
	e.minFree()
	e.pageCluster()
	e.swappiness()
	e.generations()
	e.zswap()
}

// What vm.min_free_kbytes should be for a host that swaps here: a share of its
// RAM, and not more than so many KiB on a large one.
const (
	minFreePercent = 3
	minFreeMost    = 512 << 10
)

func (e *examination) minFree() {
	const check, subject = "min_free_kbytes", "kernel"
	have, err := e.number("proc/sys/vm/min_free_kbytes")
	total, totalErr := e.totalKiB()
	if err := errors.Join(err, totalErr); err != nil {
		e.unknown(check, subject, err)
		return
	}
	want := min(total*minFreePercent/100, minFreeMost)
	if have >= want {
		e.add(check, subject, OK, size(have)+" are kept free", "")
		return
	}
	state := Note
	why := "on a host that swaps to NBD that is little"
	switch {
	case e.remote():
		state, why = Problem, "the network driver can run out of memory for the packets that would free some (seen on 6.12)"
	case e.local():
		state, why = Warning, "the kernel can run out of memory for the requests that would free some"
	}
	e.add(check, subject, state, fmt.Sprintf("%s are kept free of %s: %s", size(have), size(total), why),
		fmt.Sprintf("sysctl -w vm.min_free_kbytes=%d, and the same in /etc/sysctl.d/tmemd.conf", want))
}

func (e *examination) totalKiB() (int64, error) {
	text, err := e.read("proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		var n int64
		if _, err := fmt.Sscanf(line, "MemTotal: %d kB", &n); err == nil {
			return n, nil
		}
	}
	return 0, errors.New("/proc/meminfo has no MemTotal")
}

func (e *examination) pageCluster() {
	const check, subject = "page-cluster", "kernel"
	n, err := e.number("proc/sys/vm/page-cluster")
	switch {
	case err != nil:
		e.unknown(check, subject, err)
	case n > 3:
		e.add(check, subject, Warning, fmt.Sprintf("vm.page-cluster is %d: each fault reads %d pages", n, 1<<n), "sysctl -w vm.page-cluster=3; 0 or 1 if most pages are in a backend")
	case n > 1:
		e.add(check, subject, Note, fmt.Sprintf("vm.page-cluster is %d: each fault reads %d pages, which is good for pages on storage", n, 1<<n), "sysctl -w vm.page-cluster=0 if most pages are in a backend")
	default:
		e.add(check, subject, OK, fmt.Sprintf("vm.page-cluster is %d", n), "")
	}
}

func (e *examination) swappiness() {
	const check, subject = "swappiness", "kernel"
	n, err := e.number("proc/sys/vm/swappiness")
	switch {
	case err != nil:
		e.unknown(check, subject, err)
	case n == 0:
		e.add(check, subject, Warning, "vm.swappiness is 0: the kernel swaps only when it is about to kill", "sysctl -w vm.swappiness=60, or more: swap here is faster than a disk")
	default:
		e.add(check, subject, OK, fmt.Sprintf("vm.swappiness is %d", n), "")
	}
}

// generations is about the multi-generational LRU. With it, all hangs that were
// seen on 6.12 with a server on the same host, and with the default
// min_free_kbytes over TCP, went through its eviction; without it none did.
func (e *examination) generations() {
	const check, subject = "lru_gen", "kernel"
	const file = "sys/kernel/mm/lru_gen/enabled"
	text, err := e.read(file)
	if errors.Is(err, fs.ErrNotExist) {
		e.add(check, subject, OK, "the kernel has no multi-generational LRU", "")
		return
	}
	if err != nil {
		e.unknown(check, subject, err)
		return
	}
	if strings.Trim(text, "0x") == "" {
		e.add(check, subject, OK, "the multi-generational LRU is off", "")
		return
	}
	state := Note
	if e.local() {
		state = Warning
	}
	e.add(check, subject, state, "the multi-generational LRU is on: with it, 6.12 kernels stalled that swapped to a daemon of their own host", "echo n > /"+file)
}

func (e *examination) zswap() {
	const check, subject = "zswap", "kernel"
	text, err := e.read("sys/module/zswap/parameters/enabled")
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && text == "N":
		e.add(check, subject, OK, "zswap is off", "")
	case err != nil:
		e.unknown(check, subject, err)
	case len(e.Attachments) > 0:
		e.add(check, subject, Warning, "zswap is on: it compresses pages ahead of the daemon, which then sees those that it could not hold", "echo N > /sys/module/zswap/parameters/enabled")
	default:
		e.add(check, subject, Note, "zswap is on", "echo N > /sys/module/zswap/parameters/enabled on a host that swaps to tmemd")
	}
}
