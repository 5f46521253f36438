package pressure

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

const (
	psi = "some avg10=0.22 avg60=0.17 avg300=1.11 total=58761459\n" +
		"full avg10=0.00 avg60=0.13 avg300=0.96 total=57556370\n"
	meminfo = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    4000000 kB\nCommitLimit: x kB\n"
)

// tree is a tree of files as the kernel has it.
func tree(files map[string]string) Files {
	root := fstest.MapFS{}
	for name, text := range files {
		root[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return Files{root}
}

func TestFiles(t *testing.T) {
	const group = "sys/fs/cgroup/system.slice/tmemd.service/"
	inGroup := func(limit, current string) map[string]string {
		return map[string]string{
			"proc/pressure/memory": psi, "proc/meminfo": meminfo,
			"proc/self/cgroup":       "1:name=x:/elsewhere\n0::/system.slice/tmemd.service\n",
			group + "memory.max":     limit + "\n",
			group + "memory.current": current + "\n",
			group + "memory.stat":    "anon 5\ninactive_file 100\n",
		}
	}
	host := Sample{Stalled: 58761459 * time.Microsecond, PSI: true, Total: 16000000 << 10, Available: 4000000 << 10}
	with := func(total, available int64) Sample {
		s := host
		s.Total, s.Available = total, available
		return s
	}
	for _, test := range []struct {
		name  string
		files map[string]string
		want  Sample
		err   string
	}{
		{name: "host", files: map[string]string{"proc/pressure/memory": psi, "proc/meminfo": meminfo}, want: host},
		{name: "no PSI", files: map[string]string{"proc/meminfo": meminfo}, want: Sample{Total: host.Total, Available: host.Available}},
		{name: "group with little left", files: inGroup("1000", "900"), want: with(1000, 200)},
		{name: "group with more left than the host", files: inGroup("1000", "500"), want: host},
		{name: "group without a limit", files: inGroup("max", "500"), want: host},
		{name: "group above its limit", files: inGroup("1000", "5000"), want: with(1000, 0)},
		{name: "group that makes no sense", files: inGroup("-1", "5000"), want: host},
		{name: "no meminfo", files: map[string]string{"proc/pressure/memory": psi}, err: "read available memory: "},
		{name: "no MemAvailable", files: map[string]string{"proc/meminfo": "MemTotal: 16 kB\n"}, err: "no sensible MemTotal"},
		{name: "more than there is", files: map[string]string{"proc/meminfo": "MemTotal: 16 kB\nMemAvailable: 17 kB\n"}, err: "no sensible MemTotal"},
		{name: "no total", files: map[string]string{"proc/meminfo": meminfo, "proc/pressure/memory": "some avg10=0\n"}, err: "there is no total"},
		{name: "no number", files: map[string]string{"proc/meminfo": meminfo, "proc/pressure/memory": "some total=-1\n"}, err: "makes no sense"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := tree(test.files).Sample()
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("got %v, want an error with %q", err, test.err)
				}
				return
			}
			if err != nil || got != test.want {
				t.Errorf("got %+v, %v, want %+v", got, err, test.want)
			}
		})
	}
}

// TestHost reads what the machine has that runs the test.
func TestHost(t *testing.T) {
	s, err := Host().Sample()
	if err != nil {
		t.Fatal(err)
	}
	if s.Total < 1<<20 || s.Available <= 0 || s.Available > s.Total || s.Stalled < 0 {
		t.Errorf("%+v", s)
	}
}

// FuzzFiles: whatever the files say, a sample makes sense or is an error.
func FuzzFiles(f *testing.F) {
	f.Add(psi, meminfo, "0::/a\n", "1000", "900", "inactive_file 100\n")
	f.Add("some total=9223372036854775807", "MemTotal: 9223372036854775807 kB\nMemAvailable: 1 kB", "0::/../..", "9223372036854775807", "-9223372036854775808", "inactive_file -9223372036854775808")
	f.Fuzz(func(t *testing.T, psi, meminfo, cgroup, limit, current, stat string) {
		s, err := tree(map[string]string{
			"proc/pressure/memory": psi, "proc/meminfo": meminfo, "proc/self/cgroup": cgroup,
			"sys/fs/cgroup/a/memory.max": limit, "sys/fs/cgroup/a/memory.current": current, "sys/fs/cgroup/a/memory.stat": stat,
		}).Sample()
		if err == nil && (s.Total <= 0 || s.Available < 0 || s.Available > s.Total || s.Stalled < 0) {
			t.Errorf("%+v", s)
		}
	})
}
