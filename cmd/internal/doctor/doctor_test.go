package doctor

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/attach"
	"github.com/tmemd/tmemd/cmd/internal/config"
)

// Processes of the healthy host.
const (
	daemonPID = 100
	agentPID  = 200
)

// stat is a line of /proc/PID/task/TID/stat with the flags, of a process whose
// name makes it hard.
func stat(flags string) string { return statOf(flags, "2") }

// statOf has the scheduling policy, too.
func statOf(flags, policy string) string {
	return "100 (tmemd (x) 9) S 1 100 100 0 -1 " + flags + " 2036 0 0 0 3 1 0 0 -2 0 9 0 1234 1264 815 18446744073709551615 " +
		"1 1 0 0 0 0 0 0 2143420159 0 0 0 17 1 1 " + policy + " 0 0 0 0 0 0 0 0 0 0 0\n"
}

const (
	flushing    = "1572928" // 0x180040: PF_MEMALLOC_NOIO, PF_LOCAL_THROTTLE, and another
	notFlushing = "4194304"
)

func status(rss, locked, swapped string) string {
	return "Name:\ttmemd\nVmLck:\t" + locked + " kB\nVmRSS:\t   " + rss + " kB\nVmSwap:\t       " + swapped + " kB\nThreads:\t9\nCapEff:\t000001ffffffffff\n"
}

const limits = "Limit                     Soft Limit           Hard Limit           Units     \n" +
	"Max locked memory         8388608              8388608              bytes     \n"

const mounts = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n" +
	"23 22 0:21 / /dev/shm rw - tmpfs tmpfs rw\n" +
	"24 22 8:2 / /var/lib/with\\040blank rw - btrfs /dev/sdb1 rw\n"

const swapsHeader = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"

// healthy is the files of a host that swaps to its own daemon, and has nothing
// wrong with it.
func healthy() map[string]string {
	return map[string]string{
		"proc/sys/kernel/osrelease":                            "6.12.107+deb12-amd64\n",
		"proc/sys/vm/min_free_kbytes":                          "262144\n",
		"proc/sys/vm/page-cluster":                             "0\n",
		"proc/sys/vm/swappiness":                               "60\n",
		"proc/meminfo":                                         "MemTotal:        8000000 kB\nMemFree:  1 kB\n",
		"proc/swaps":                                           swapsHeader + "/dev/nbd0                               partition\t1048572\t\t2048\t\t100\n",
		"proc/sys/vm/overcommit_memory":                        "0\n",
		"proc/cmdline":                                         "root=/dev/sda1 quiet\n",
		"proc/1/comm":                                          "systemd\n",
		"proc/100/mountinfo":                                   mounts,
		"proc/100/limits":                                      limits,
		"proc/200/limits":                                      limits,
		"sys/power/resume":                                     "0:0\n",
		"sys/block/nbd0/dev":                                   "43:0\n",
		"sys/block/nbd0/queue/scheduler":                       "[none] mq-deadline kyber\n",
		"sys/kernel/mm/transparent_hugepage/enabled":           "always [madvise] never\n",
		"sys/fs/cgroup/user.slice/memory.swap.max":             "max\n",
		"sys/module/nbd/refcnt":                                "1\n",
		"sys/module/zswap/parameters/enabled":                  "N\n",
		"sys/kernel/mm/lru_gen/enabled":                        "0x0000\n",
		"sys/block/nbd0/queue/logical_block_size":              "4096\n",
		"sys/block/nbd0/queue/rotational":                      "0\n",
		"sys/block/nbd0/queue/discard_max_bytes":               "4294966784\n",
		"proc/100/task/100/stat":                               stat(flushing),
		"proc/100/task/101/stat":                               stat(flushing),
		"proc/100/status":                                      status("81920", "1234567", "0"),
		"proc/100/oom_score_adj":                               "-1000\n",
		"proc/100/cgroup":                                      "0::/system.slice/tmemd.service\n",
		"proc/200/task/200/stat":                               stat(flushing),
		"proc/200/status":                                      status("8192", "1234567", "0"),
		"proc/200/oom_score_adj":                               "-1000\n",
		"proc/200/comm":                                        "tmemctl\n",
		"proc/200/cgroup":                                      "0::/system.slice/tmem-swap@nbd0.service\n",
		"sys/fs/cgroup/system.slice/memory.max":                "max\n",
		"sys/fs/cgroup/system.slice/tmemd.service/memory.max":  "max\n",
		"sys/fs/cgroup/system.slice/tmemd.service/memory.high": "max\n",
	}
}

func facts(t *testing.T, files map[string]string) Facts {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Facts{
		Root: root,
		Daemon: &admin.Status{
			PID: daemonPID, Phase: admin.PhaseServing, Protection: []admin.Protection{{Measure: "io_flusher", State: "on"}},
			Exports: []admin.Export{{Name: "swap", SizeBytes: 8 << 30, Storage: admin.Storage{Path: "/var/lib/tmemd/swap.img", Direct: true, AllocatedBytes: 1 << 30}}},
		},
		Free: func(string) (uint64, error) { return 100 << 30, nil },
		Attachments: []attach.Record{{
			Device: "/dev/nbd0", PID: agentPID, Address: config.Address{Network: "unix", Address: "/run/nbd.sock"},
			Fenced: true, Discard: true, DeadConnTimeout: 10 * time.Minute, Phase: attach.PhaseAttached, Reconnects: 2,
		}},
	}
}

func TestHealthyHost(t *testing.T) {
	findings := Examine(facts(t, healthy()))
	if len(findings) < 20 {
		t.Errorf("only %d findings", len(findings))
	}
	for _, f := range findings {
		if f.State != OK {
			t.Errorf("%+v", f)
		}
	}
}

// TestWhatCanBeWrong breaks one thing after the other, and looks for the finding
// that tells.
func TestWhatCanBeWrong(t *testing.T) {
	tests := []struct {
		name   string
		files  map[string]string // changed; empty ones are removed
		facts  func(*Facts)
		check  string
		state  string
		detail string
		cure   string
	}{
		{"old kernel", map[string]string{"proc/sys/kernel/osrelease": "5.4.0-100-generic"}, nil, "version", Problem, "5.4 has no I/O flusher", "6.1"},
		{"older kernel than tested", map[string]string{"proc/sys/kernel/osrelease": "5.15.0"}, nil, "version", Warning, "5.15 is older", "6.1"},
		{"kernel without a version", map[string]string{"proc/sys/kernel/osrelease": "custom"}, nil, "version", Unknown, "custom", "root"},
		{"no module", map[string]string{"sys/module/nbd/refcnt": ""}, func(f *Facts) { f.Attachments = nil }, "module", Note, "not loaded", "modprobe nbd"},
		{"no daemon", nil, func(f *Facts) { f.Daemon, f.DaemonError = nil, "tmemd is not running" }, "running", Note, "tmemd is not running", "start tmemd"},
		{"protection refused", nil, func(f *Facts) {
			f.Daemon.Protection[0] = admin.Protection{Measure: "io_flusher", State: "refused", Why: "prctl: operation not permitted", Cure: "give it CAP_SYS_RESOURCE"}
		}, "protection", Problem, "io_flusher: prctl", "CAP_SYS_RESOURCE"},
		{"protection refused, others' swap", nil, func(f *Facts) {
			f.Daemon.Protection[0] = admin.Protection{Measure: "io_flusher", State: "refused", Cure: "give it CAP_SYS_RESOURCE"}
			f.Attachments[0].Address = config.Address{Network: "tcp", Address: "10.0.0.1:10809"}
		}, "protection", Note, "io_flusher", "CAP_SYS_RESOURCE"},
		{"one thread without the flag", map[string]string{"proc/100/task/101/stat": stat(notFlushing)}, nil, "io flusher", Problem, "1 of 2 threads", "CAP_SYS_RESOURCE"},
		{"half the flag", map[string]string{"proc/100/task/101/stat": stat("524288")}, nil, "io flusher", Problem, "1 of 2 threads", "CAP_SYS_RESOURCE"},
		{"agent's thread without the flag", map[string]string{"proc/200/task/200/stat": stat(notFlushing)}, nil, "io flusher", Problem, "1 of 1 threads", "CAP_SYS_RESOURCE"},
		{"an ordinary thread", map[string]string{"proc/100/task/101/stat": statOf(flushing, "0")}, nil, "realtime", Problem, "1 of 2 threads", "chrt --all-tasks --rr --pid 1 100"},
		{"damaged stat", map[string]string{"proc/100/task/101/stat": "100 (tmemd"}, nil, "io flusher", Unknown, "no flags", "root"},
		{"no threads", map[string]string{"proc/100/task/100/stat": "", "proc/100/task/101/stat": ""}, nil, "io flusher", Unknown, "no threads", "root"},
		{"not locked", map[string]string{"proc/100/status": status("81920", "0", "0")}, nil, "locked memory", Problem, "0 B of 80 MiB are locked", "CAP_IPC_LOCK"},
		{"locked too late", map[string]string{"proc/100/status": status("81920", "1234567", "400")}, nil, "locked memory", Problem, "400 KiB were swapped out", "before there is swap"},
		{"a thread of the kernel", map[string]string{"proc/100/status": "Name:\tkthreadd\n"}, nil, "locked memory", Unknown, "does not say", "root"},
		{"daemon can be killed", map[string]string{"proc/100/oom_score_adj": "0"}, nil, "oom score", Problem, "oom_score_adj is 0", "OOMScoreAdjust=-1000"},
		{"memory limit", map[string]string{"sys/fs/cgroup/system.slice/tmemd.service/memory.max": "1073741824"}, nil, "cgroup", Problem, "memory.max is 1073741824", "MemoryMax"},
		{"memory limit of a parent", map[string]string{"sys/fs/cgroup/system.slice/memory.max": "1073741824"}, nil, "cgroup", Problem, "/sys/fs/cgroup/system.slice/memory.max", "MemoryMax"},
		{"soft limit", map[string]string{"sys/fs/cgroup/system.slice/tmemd.service/memory.high": "4096"}, nil, "cgroup", Problem, "memory.high is 4096", "MemoryHigh"},
		{"limit, cgroup v1", map[string]string{"proc/100/cgroup": "5:memory:/docker/7\n1:name=systemd:/x\n0::/\n", "sys/fs/cgroup/memory/docker/7/memory.limit_in_bytes": "4096"}, nil, "cgroup", Problem, "memory.limit_in_bytes is 4096", "MemoryMax"},
		{"no agent", nil, func(f *Facts) { f.Attachments = nil }, "agent", Problem, "nobody looks after it", "tmemctl attach"},
		{"agent is gone", map[string]string{"proc/200/comm": ""}, nil, "agent", Problem, "process 200, is gone", "tmemctl attach /dev/nbd0"},
		{"agent's number is another's", map[string]string{"proc/200/comm": "bash\n"}, nil, "agent", Problem, "process 200, is gone", "tmemctl attach /dev/nbd0"},
		{"reconnecting", nil, func(f *Facts) {
			f.Attachments[0].Phase, f.Attachments[0].Problem, f.Attachments[0].Hint = attach.PhaseReconnecting, "nobody serves NBD", "start tmemd there"
		}, "agent", Problem, "nobody serves NBD", "start tmemd there; requests wait for 10m0s"},
		{"short patience", nil, func(f *Facts) { f.Attachments[0].DeadConnTimeout = 30 * time.Second }, "dead connections", Warning, "gone for 30s", "--dead-conn-timeout"},
		{"no fence", nil, func(f *Facts) { f.Attachments[0].Fenced = false }, "late requests", Warning, "undo a newer write", "tmemd"},
		{"TCP to oneself", nil, func(f *Facts) { f.Attachments[0].Address = config.Address{Network: "tcp", Address: "127.0.0.1:10809"} }, "transport", Problem, "this host itself", "Unix socket"},
		{"no discard", nil, func(f *Facts) { f.Attachments[0].Discard = false }, "discard", Warning, "keeps pages", "--no-discard"},
		{"device without discard", map[string]string{"sys/block/nbd0/queue/discard_max_bytes": "0"}, nil, "discard", Warning, "takes no discard", "TRIM"},
		{"small blocks", map[string]string{"sys/block/nbd0/queue/logical_block_size": "512"}, nil, "device", Warning, "512 bytes", "-b 4096"},
		{"rotational", map[string]string{"sys/block/nbd0/queue/rotational": "1"}, nil, "rotational", Warning, "spins", "echo 0 > /sys/block/nbd0/queue/rotational"},
		{"no such device", map[string]string{"sys/block/nbd0/queue/logical_block_size": ""}, nil, "device", Unknown, "no such file", "root"},
		{"zram first", map[string]string{"proc/swaps": healthy()["proc/swaps"] + "/dev/zram0 partition 100 0 100\n"}, nil, "priority", Warning, "/dev/zram0 has priority 100", "swapoff /dev/zram0, or attach with --priority 101"},
		{"a file with the highest priority there is", map[string]string{"proc/swaps": healthy()["proc/swaps"] + "/swapfile file 100 0 32767\n"}, nil, "priority", Warning, "/swapfile has priority 32767", "--priority 32767"},
		{"attached, not swapped on", map[string]string{"proc/swaps": swapsHeader}, nil, "swap", Warning, "does not swap to it", "swapon /dev/nbd0"},
		{"nothing attached", map[string]string{"proc/swaps": swapsHeader}, func(f *Facts) { f.Attachments = nil }, "swap", Note, "no NBD device", "tmemctl attach"},
		{"no list of swap", map[string]string{"proc/swaps": ""}, nil, "swap", Unknown, "no such file", "root"},
		{"little kept free", map[string]string{"proc/sys/vm/min_free_kbytes": "11000"}, nil, "min_free_kbytes", Warning, "for the requests", "vm.min_free_kbytes=240000"},
		{"little kept free, over TCP", map[string]string{"proc/sys/vm/min_free_kbytes": "11000"}, func(f *Facts) {
			f.Attachments[0].Address = config.Address{Network: "tcp", Address: "10.0.0.1:10809"}
		}, "min_free_kbytes", Problem, "network driver", "vm.min_free_kbytes=240000"},
		{"little kept free of much", map[string]string{"proc/sys/vm/min_free_kbytes": "67584", "proc/meminfo": "MemTotal: 263000000 kB\n"}, nil, "min_free_kbytes", Warning, "of 250.8 GiB", "vm.min_free_kbytes=524288"},
		{"RAM of unknown size", map[string]string{"proc/meminfo": "MemFree: 1 kB\n"}, nil, "min_free_kbytes", Unknown, "no MemTotal", "root"},
		{"large clusters", map[string]string{"proc/sys/vm/page-cluster": "5"}, nil, "page-cluster", Warning, "reads 32 pages", "vm.page-cluster"},
		{"usual clusters", map[string]string{"proc/sys/vm/page-cluster": "3"}, nil, "page-cluster", Note, "reads 8 pages", "vm.page-cluster=0"},
		{"swappiness 0", map[string]string{"proc/sys/vm/swappiness": "0"}, nil, "swappiness", Warning, "about to kill", "swappiness=60"},
		{"generations", map[string]string{"sys/kernel/mm/lru_gen/enabled": "0x0007\n"}, nil, "lru_gen", Warning, "multi-generational LRU is on", "echo n > /sys/kernel/mm/lru_gen/enabled"},
		{"generations, nothing local", map[string]string{"sys/kernel/mm/lru_gen/enabled": "0x0007\n"}, func(f *Facts) { f.Attachments = nil }, "lru_gen", Note, "is on", "lru_gen"},
		{"zswap", map[string]string{"sys/module/zswap/parameters/enabled": "Y\n"}, nil, "zswap", Warning, "zswap is on", "echo N"},
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
			var same []Finding
			for _, finding := range Examine(f) {
				if finding.Check != test.check || finding.State == OK {
					continue
				}
				if finding.State == test.state && strings.Contains(finding.Detail, test.detail) && strings.Contains(finding.Cure, test.cure) {
					return
				}
				same = append(same, finding)
			}
			t.Errorf("no finding %s with %q and the cure %q; of this check there are %+v", test.state, test.detail, test.cure, same)
		})
	}
}

// TestCuresAreNamed: what has to be done something about says what (I1).
func TestCuresAreNamed(t *testing.T) {
	f := facts(t, nil) // nothing can be read
	unknown := 0
	for _, finding := range Examine(f) {
		if finding.State != OK && finding.Cure == "" {
			t.Errorf("%+v has no cure", finding)
		}
		if finding.State == OK && finding.Check != "running" && finding.Check != "lru_gen" && finding.Check != "huge pages" && finding.Check != "zswap" {
			t.Errorf("%+v was not looked at", finding)
		}
		if finding.State == Unknown {
			unknown++
		}
	}
	if unknown < 8 {
		t.Errorf("only %d checks know that they know nothing", unknown)
	}
}

func TestCount(t *testing.T) {
	list := []Finding{{State: Problem}, {State: OK}, {State: Problem}}
	if Count(list, Problem) != 2 || Count(list, Warning) != 0 {
		t.Error("miscounted")
	}
}
