package doctor

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/attach"
	"github.com/tmemd/tmemd/cmd/internal/config"
)

func storageAt(path string, direct bool) func(*Facts) {
	return func(f *Facts) { f.Daemon.Exports[0].Storage = admin.Storage{Path: path, Direct: direct} }
}

// TestPlantedAlone plants one misconfiguration in a healthy host, and wants that one
// found, with its cure, and nothing else.
func TestPlantedAlone(t *testing.T) {
	free := func(n uint64, err error) func(*Facts) {
		return func(f *Facts) { f.Free = func(string) (uint64, error) { return n, err } }
	}
	mounted := func(kind, source string) map[string]string {
		return map[string]string{"proc/100/mountinfo": mounts + "30 22 0:9 / /var/lib/tmemd rw - " + kind + " " + source + " rw\n"}
	}
	noCapability := strings.Replace(status("81920", "1234567", "0"), "000001ffffffffff", "0000000000000000", 1)
	tests := []struct {
		name                string
		files               map[string]string // changed; empty ones are removed
		facts               func(*Facts)
		check, state, where string
		detail, cure        string
	}{
		{"storage on a tmpfs", mounted("tmpfs", "tmpfs"), nil, "storage", Problem, "export swap", "in memory", "move it to a disk"},
		{"storage over NFS", mounted("nfs4", "server:/x"), nil, "storage", Problem, "export swap", "over the network", "local disk"},
		{"storage on btrfs", nil, storageAt("/var/lib/with blank/swap.img", true), "storage", Warning, "export swap", "btrfs", "chattr +C"},
		{"storage in a container's layer", mounted("overlay", "overlay"), nil, "storage", Warning, "export swap", "overlay", "volume"},
		{"storage is zram", nil, storageAt("/dev/zram0", true), "storage", Problem, "export swap", "/dev/zram0 is memory", "on a disk"},
		{"storage is on what is swapped to", mounted("ext4", "/dev/nbd7"), nil, "storage below", Problem, "export swap", "/dev/nbd7", "disk of this host"},
		{"storage without O_DIRECT", nil, storageAt("/var/lib/tmemd/swap.img", false), "O_DIRECT", Problem, "export swap", "page cache", "ext4 or xfs"},
		{"storage is full", nil, free(0, nil), "space", Problem, "export swap", "is full", "make room"},
		{"storage will be full", nil, free(1<<30, nil), "space", Warning, "export swap", "1 GiB of 7 GiB", "smaller size"},
		{"space unknown", nil, free(0, errors.New("permission denied")), "space", Unknown, "export swap", "permission denied", "root"},
		{"strict accounting", map[string]string{"proc/sys/vm/overcommit_memory": "2\n"}, nil, "overcommit", Warning, "kernel", "overcommit_memory is 2", "vm.overcommit_memory=0"},
		{"huge pages for all", map[string]string{"sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never\n"}, nil, "huge pages", Note, "kernel", "2 MiB", "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"},
		{"hibernation, by device", map[string]string{"sys/power/resume": "43:0\n"}, nil, "hibernation", Problem, "/dev/nbd0", "would hibernate to it", "mask hibernate.target"},
		{"hibernation, by name", map[string]string{"proc/cmdline": "quiet resume=/dev/nbd0\n"}, nil, "hibernation", Problem, "/dev/nbd0", "would hibernate to it", "mask hibernate.target"},
		{"a slice that may not swap", map[string]string{"sys/fs/cgroup/user.slice/memory.swap.max": "0\n"}, nil, "swap limit", Warning, "user.slice", "nothing in it is swapped out", "MemorySwapMax=infinity"},
		{"pods that may not swap", map[string]string{"sys/fs/cgroup/kubepods.slice/memory.swap.max": "0\n"}, nil, "swap limit", Warning, "kubepods.slice", "nothing in it is swapped out", "LimitedSwap"},
		{"systemd-oomd", map[string]string{"proc/300/comm": "systemd-oomd\n"}, nil, "early killers", Warning, "systemd-oomd", "nearly full", "SwapUsedLimit"},
		{"earlyoom", map[string]string{"proc/300/comm": "earlyoom\n"}, nil, "early killers", Warning, "earlyoom", "nearly full", "earlyoom -s"},
		{"little may be locked", map[string]string{"proc/100/status": noCapability}, nil, "lock limit", Problem, "daemon", "8388608 bytes", "LimitMEMLOCK=infinity"},
		{"little may be locked by the agent", map[string]string{"proc/200/status": noCapability}, nil, "lock limit", Problem, "agent of /dev/nbd0", "8388608 bytes", "CAP_IPC_LOCK"},
		{"a scheduler", map[string]string{"sys/block/nbd0/queue/scheduler": "none mq-deadline [bfq]\n"}, nil, "scheduler", Warning, "/dev/nbd0", "sorted by bfq", "echo none > /sys/block/nbd0/queue/scheduler"},

		{"zram in front", map[string]string{"proc/swaps": healthy()["proc/swaps"] + "/dev/zram0 partition 100 0 32000\n"}, nil, "priority", Warning, "/dev/nbd0", "/dev/zram0 has priority 32000", "swapoff /dev/zram0"},
		{"zswap in front", map[string]string{"sys/module/zswap/parameters/enabled": "Y\n"}, nil, "zswap", Warning, "kernel", "compresses pages ahead", "echo N"},
		{"swappiness 0", map[string]string{"proc/sys/vm/swappiness": "0\n"}, nil, "swappiness", Warning, "kernel", "is 0", "vm.swappiness=60"},
		{"readahead", map[string]string{"proc/sys/vm/page-cluster": "3\n"}, nil, "page-cluster", Note, "kernel", "reads 8 pages", "vm.page-cluster=0"},
		{"little is kept free", map[string]string{"proc/sys/vm/min_free_kbytes": "11000\n"}, nil, "min_free_kbytes", Warning, "kernel", "kept free", "vm.min_free_kbytes=240000"},
		{"multi-generational LRU", map[string]string{"sys/kernel/mm/lru_gen/enabled": "0x0007\n"}, nil, "lru_gen", Warning, "kernel", "stalled", "echo n"},
		{"no agent", nil, func(f *Facts) { f.Attachments[0].PID = 777 }, "agent", Problem, "/dev/nbd0", "is gone", "tmemctl attach /dev/nbd0"},
		{"TCP to itself", nil, func(f *Facts) {
			f.Attachments = append(f.Attachments, attach.Record{})
			f.Attachments[1] = f.Attachments[0]
			f.Attachments[0].Address = config.Address{Network: "tcp", Address: "127.0.0.1:10809"}
		}, "transport", Problem, "/dev/nbd0", "this host itself", "Unix socket"},
		{"a short wait for servers", nil, func(f *Facts) { f.Attachments[0].DeadConnTimeout = 10 * time.Second }, "dead connections", Warning, "/dev/nbd0", "gone for 10s", "--dead-conn-timeout 10m"},
		{"can be killed", map[string]string{"proc/100/oom_score_adj": "0\n"}, nil, "oom score", Problem, "daemon", "can be killed", "OOMScoreAdjust=-1000"},
		{"a limit of memory", map[string]string{"sys/fs/cgroup/system.slice/tmemd.service/memory.high": "4096\n"}, nil, "cgroup", Problem, "daemon", "memory.high is 4096", "MemoryHigh"},
		{"a kernel that is too old", map[string]string{"proc/sys/kernel/osrelease": "5.4.0\n"}, nil, "version", Problem, "kernel", "no I/O flusher", "6.1"},
		{"a kernel that cannot upgrade", map[string]string{"proc/sys/kernel/osrelease": "6.1.0-9-amd64\n"}, nil, "upgrade", Note, "kernel", "6.1 lends", "tmemctl detach"},
		{"no I/O flusher", map[string]string{"proc/100/task/101/stat": stat(notFlushing)}, nil, "io flusher", Problem, "daemon", "1 of 2 threads", "CAP_SYS_RESOURCE"},
		{"not locked", map[string]string{"proc/100/status": status("81920", "0", "0")}, nil, "locked memory", Problem, "daemon", "are locked", "CAP_IPC_LOCK"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			files := healthy()
			maps.Copy(files, test.files)
			maps.DeleteFunc(files, func(_, content string) bool { return content == "" })
			f := facts(t, files)
			if test.facts != nil {
				test.facts(&f)
			}
			found := 0
			for _, x := range Examine(f) {
				switch {
				case x.State == OK:
				case x.Check == test.check && x.State == test.state && x.Subject == test.where && strings.Contains(x.Detail, test.detail) && strings.Contains(x.Cure, test.cure):
					found++
				default:
					t.Errorf("found besides: %+v", x)
				}
			}
			if found != 1 {
				t.Errorf("found %d times: %s %s of %s with %q and the cure %q", found, test.state, test.check, test.where, test.detail, test.cure)
			}
		})
	}
}
