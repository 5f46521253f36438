package vm

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// elfModule is the smallest ELF file with a .modinfo section.
func elfModule(t *testing.T, modinfo string) []byte {
	t.Helper()
	const names = "\x00.modinfo\x00.shstrtab\x00"
	header := elf.Header64{
		Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1,
		Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2,
	}
	copy(header.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	header.Shoff = uint64(64 + len(modinfo) + len(names))
	var file bytes.Buffer
	sections := []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: 64, Size: uint64(len(modinfo))},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(64 + len(modinfo)), Size: uint64(len(names))},
	}
	for _, part := range []any{header, []byte(modinfo), []byte(names), sections} {
		if err := binary.Write(&file, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return file.Bytes()
}

func TestModuleDepends(t *testing.T) {
	tests := []struct {
		modinfo string
		want    string
		err     string
	}{
		{modinfo: "license=GPL\x00depends=net_failover,virtio_ring\x00name=virtio_net\x00", want: "net_failover virtio_ring"},
		{modinfo: "depends=\x00license=GPL\x00", want: ""},
		{modinfo: "description=depends=x\x00depends=virtio\x00", want: "virtio"},
		{modinfo: "license=GPL\x00", err: "no depends="},
	}
	for _, test := range tests {
		got, err := moduleDepends(elfModule(t, test.modinfo))
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%q: got %v; want %q", test.modinfo, err, test.err)
			}
			continue
		}
		if err != nil || strings.Join(got, " ") != test.want {
			t.Errorf("%q: got %q, %v; want %q", test.modinfo, got, err, test.want)
		}
	}
	if _, err := moduleDepends([]byte("not a module")); err == nil {
		t.Error("text passes for a module")
	}
}

// writeModules makes a module folder: names with what each depends on.
func writeModules(t *testing.T, modules map[string]string, builtIn string) (root string) {
	t.Helper()
	root = t.TempDir()
	folder := filepath.Join(root, "6.1.0-test", "kernel", "drivers")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, depends := range modules {
		content := elfModule(t, "depends="+depends+"\x00")
		if err := os.WriteFile(filepath.Join(folder, name+".ko"), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "6.1.0-test", "modules.builtin"), []byte(builtIn), 0o644); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestCollectModules(t *testing.T) {
	root := writeModules(t, map[string]string{
		"virtio_net": "net-failover,virtio_ring", "net-failover": "failover", "failover": "", "virtio_ring": "", "nbd": "", "unused": "nbd",
	}, "kernel/drivers/virtio/virtio_pci.ko\n")
	modules, err := collectModules(t.Context(), root, []string{"virtio-pci", "virtio_net", "nbd", "failover"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range modules {
		names = append(names, m.name)
		if len(m.content) == 0 {
			t.Errorf("%s is empty", m.name)
		}
	}
	if got := strings.Join(names, " "); got != "failover net_failover virtio_ring virtio_net nbd" {
		t.Errorf("got %s; want each once, after those it depends on, built-in ones left out", got)
	}
}

func TestCollectModulesWithAHole(t *testing.T) {
	root := writeModules(t, map[string]string{"nbd": "gone"}, "")
	if _, err := collectModules(t.Context(), root, []string{"nbd"}); err == nil || !strings.Contains(err.Error(), "no module gone") {
		t.Errorf("got %v", err)
	}
}

// A circle ends.
func TestCollectModulesInACircle(t *testing.T) {
	root := writeModules(t, map[string]string{"a": "b", "b": "a"}, "")
	modules, err := collectModules(t.Context(), root, []string{"a"})
	if err != nil || len(modules) != 2 {
		t.Errorf("got %d modules, %v; want both", len(modules), err)
	}
}

func FuzzModuleDepends(f *testing.F) {
	f.Add([]byte("\x7fELF\x02\x01\x01"))
	f.Fuzz(func(t *testing.T, content []byte) {
		depends, err := moduleDepends(content)
		if err != nil && depends != nil {
			t.Errorf("both %q and %v", depends, err)
		}
	})
}
