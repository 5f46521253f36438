package vm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestNewestCloudKernel(t *testing.T) {
	tests := []struct {
		name   string
		names  []string
		series string
		want   string // empty if there is none
	}{
		{"numbers are compared as numbers",
			[]string{"linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-56-cloud-amd64", "linux-image-6.1.0-47-cloud-amd64"},
			"6.1", "linux-image-6.1.0-56-cloud-amd64"},
		{"signed before unsigned",
			[]string{"linux-image-6.1.0-56-cloud-amd64-unsigned", "linux-image-6.1.0-56-cloud-amd64"},
			"6.1", "linux-image-6.1.0-56-cloud-amd64"},
		{"newer before signed",
			[]string{"linux-image-6.12.117+deb12-cloud-amd64-unsigned", "linux-image-6.12.99+deb12-cloud-amd64"},
			"6.12", "linux-image-6.12.117+deb12-cloud-amd64-unsigned"},
		{"6.12 is not 6.1",
			[]string{"linux-image-6.12.117+deb12-cloud-amd64", "linux-image-6.1.0-56-cloud-amd64"},
			"6.1", "linux-image-6.1.0-56-cloud-amd64"},
		{"not debug symbols, other flavours, meta-packages",
			[]string{
				"linux-image-6.1.0-57-cloud-amd64-dbg", "linux-image-6.1.0-57-amd64", "linux-image-6.1.0-57-rt-amd64",
				"linux-image-6.1-cloud-amd64", "linux-image-cloud-amd64", "linux-image-6.1.0-57-cloud-arm64",
			},
			"6.1", ""},
		{"none at all", nil, "6.1", ""},
	}
	for _, test := range tests {
		got, ok := newestCloudKernel(test.names, test.series)
		if got != test.want || ok != (test.want != "") {
			t.Errorf("%s: got %q, %t; want %q", test.name, got, ok, test.want)
		}
	}
}

// cachedKernel makes a cache folder with one kernel.
func cachedKernel(t *testing.T, series string) (cache string) {
	t.Helper()
	cache = t.TempDir()
	dir := kernelFolder(cache, series)
	for name, content := range map[string]string{
		packageFile: "linux-image-test\n", imageFile: "image",
		"modules/00-failover.ko": "a", "modules/01-virtio_net.ko": "b", "modules/10-nbd.ko": "c",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return cache
}

// A kernel in the cache is used without any tool: nothing is asked of Debian.
func TestFetchKernelUsesTheCache(t *testing.T) {
	cache := cachedKernel(t, "6.1")
	t.Setenv("PATH", t.TempDir())
	kernel, err := FetchKernel(t.Context(), cache, "6.1")
	if err != nil {
		t.Fatal(err)
	}
	if kernel.Package != "linux-image-test" || kernel.Image != filepath.Join(kernelFolder(cache, "6.1"), "vmlinuz") {
		t.Errorf("got %+v", kernel)
	}
	var names []string
	for _, path := range kernel.Modules {
		names = append(names, filepath.Base(path))
	}
	if got := strings.Join(names, " "); got != "00-failover.ko 01-virtio_net.ko 10-nbd.ko" {
		t.Errorf("modules in the order %s", got)
	}
}

func TestFetchKernelRefusesWhatIsNoSeries(t *testing.T) {
	for _, series := range []string{"", "6", "6.1.0", "../6.1", "6.1 6.12", "latest"} {
		if kernel, err := FetchKernel(t.Context(), t.TempDir(), series); err == nil || !strings.Contains(err.Error(), "expected two numbers") {
			t.Errorf("%q: got %v, %v", series, kernel, err)
		}
	}
}

// A folder that lost its modules is an error that says what to do, not a guest that fails later.
func TestReadKernelWithoutModules(t *testing.T) {
	cache := cachedKernel(t, "6.1")
	if err := os.RemoveAll(filepath.Join(kernelFolder(cache, "6.1"), modulesDir)); err != nil {
		t.Fatal(err)
	}
	if _, err := FetchKernel(t.Context(), cache, "6.1"); err == nil || !strings.Contains(err.Error(), "remove the folder") {
		t.Errorf("got %v", err)
	}
}

// What a killed run left is removed once it is old; what may still be in use is left alone, and so are kernels.
func TestRemoveAbandoned(t *testing.T) {
	cache := cachedKernel(t, "6.1")
	now := time.Now()
	for name, age := range map[string]time.Duration{".fetching-old": 2 * time.Hour, ".fetching-new": time.Minute} {
		path := filepath.Join(cache, name)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(path, "half.deb"), []byte("half"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(kernelFolder(cache, "6.1"), now.Add(-24*time.Hour), now.Add(-24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := removeAbandoned(cache, now.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(cache)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, entry := range entries {
		left = append(left, entry.Name())
	}
	if got := strings.Join(left, " "); got != ".fetching-new "+filepath.Base(kernelFolder(cache, "6.1")) {
		t.Errorf("left: %s", got)
	}
}
