package vm

import (
	"errors"
	"strings"
	"testing"
)

func TestSharedLibraries(t *testing.T) {
	tests := []struct{ name, ldd, want string }{
		{"dynamic", "\tlinux-vdso.so.1 (0x00007f87041f1000)\n" +
			"\tlibblkid.so.1 => /lib/x86_64-linux-gnu/libblkid.so.1 (0x00007f870417b000)\n" +
			"\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f8703efa000)\n" +
			"\t/lib64/ld-linux-x86-64.so.2 (0x00007f87041f3000)\n",
			"/lib/x86_64-linux-gnu/libblkid.so.1 /lib/x86_64-linux-gnu/libc.so.6 /lib64/ld-linux-x86-64.so.2"},
		{"static", "\tnot a dynamic executable\n", ""},
		{"not found", "\tlibgone.so.1 => not found\n", ""},
	}
	for _, test := range tests {
		if got := strings.Join(sharedLibraries(test.ldd), " "); got != test.want {
			t.Errorf("%s: got %q; want %q", test.name, got, test.want)
		}
	}
}

// Every tool that the package looks for has its Debian package named when it is missing.
func TestMissingToolNamesItsPackage(t *testing.T) {
	for _, tool := range append([]string{"busybox", "qemu-system-x86_64", "apt-get", "apt-cache", "dpkg-deb", "ldd", "xz"}, guestTools...) {
		if packages[tool] == "" {
			t.Errorf("no package is named for %s", tool)
		}
	}
	_, err := findTool("no-such-tool")
	missing, ok := errors.AsType[*MissingToolError](err)
	if !ok || missing.Tool != "no-such-tool" {
		t.Fatalf("got %v", err)
	}
	missing.Package = packages["qemu-system-x86_64"]
	if got := missing.Error(); got != "no-such-tool is missing: apt-get install qemu-system-x86" {
		t.Errorf("got %q", got)
	}
}

// An error of a tool carries what the tool said.
func TestRunToolReportsErrorOutput(t *testing.T) {
	output, err := runTool(t.Context(), "", "sh", "-c", "echo out; echo trouble >&2; exit 3")
	if err == nil || !strings.Contains(err.Error(), "exit status 3: trouble") {
		t.Errorf("got %q, %v", output, err)
	}
	output, err = runTool(t.Context(), t.TempDir(), "sh", "-c", "pwd; echo noise >&2")
	if err != nil || strings.Contains(string(output), "noise") {
		t.Errorf("got %q, %v", output, err)
	}
}
