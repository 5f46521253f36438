package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/cleancache"
)

func makeFile(t *testing.T, path string, size int) {
	t.Helper()
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDisks(t *testing.T) {
	dir := t.TempDir()
	makeFile(t, filepath.Join(dir, "root.img"), 8192)
	makeFile(t, filepath.Join(dir, "data.img"), 8192)
	config, err := parseText(t, dir, `
[[disk]]
name = "root"
path = "DIR/root.img"
read_only = true
mode = "exclusive"
allow = ["uid:1000"]
[[disk]]
name = "again"
path = "DIR/root.img"
read_only = true
[[disk]]
name = "data"
path = "DIR/data.img"
`)
	if err != nil {
		t.Fatal(err)
	}
	want := []Disk{
		{Name: "root", Path: dir + "/root.img", ReadOnly: true, Mode: cleancache.Exclusive, Allow: []string{"uid:1000"}},
		{Name: "again", Path: dir + "/root.img", ReadOnly: true},
		{Name: "data", Path: dir + "/data.img"},
	}
	if !reflect.DeepEqual(config.Disks, want) {
		t.Errorf("Disks = %+v", config.Disks)
	}
	if len(config.Exports) != 0 {
		t.Errorf("with disks and no export there are %d exports", len(config.Exports))
	}
}

const (
	oneUUID  = "0e3a5c84-93f1-4d2e-a1b7-5f60c9d8e721"
	baseText = "[[base]]\nname = \"deb\"\npath = \"DIR/root.img\"\nuuid = \"" + oneUUID + "\"\n"
)

func TestBases(t *testing.T) {
	dir := t.TempDir()
	makeFile(t, filepath.Join(dir, "root.img"), 8192)
	config, err := parseText(t, dir, baseText+`
[[disk]]
name = "vm"
path = "DIR/vm.overlay"
base = "deb"
[[disk]]
name = "clone"
path = "DIR/root.img"
read_only = true
shared = "0E3A5C84-93F1-4d2e-a1b7-5f60c9d8e721"
`)
	if err != nil {
		t.Fatal(err)
	}
	id, err := cleancache.ParseUUID(oneUUID)
	if err != nil {
		t.Fatal(err)
	}
	if want := []Base{{Name: "deb", Path: dir + "/root.img", UUID: id}}; !reflect.DeepEqual(config.Bases, want) {
		t.Errorf("Bases = %+v", config.Bases)
	}
	want := []Disk{
		{Name: "vm", Path: dir + "/vm.overlay", Base: "deb"},
		{Name: "clone", Path: dir + "/root.img", ReadOnly: true, Shared: &id},
	}
	if !reflect.DeepEqual(config.Disks, want) {
		t.Errorf("Disks = %+v", config.Disks)
	}
}

func TestDiskErrors(t *testing.T) {
	dir := t.TempDir()
	makeFile(t, filepath.Join(dir, "root.img"), 8192)
	for name, test := range map[string]struct{ text, want string }{
		"no name":           {"[[disk]]\npath = \"DIR/root.img\"", "no name is given"},
		"no path":           {"[[disk]]\nname = \"a\"", "no file or block device is given"},
		"bad name":          {"[[disk]]\nname = \"a/b\"\npath = \"DIR/root.img\"", `"a/b" is not a name`},
		"bad mode":          {"[[disk]]\nname = \"a\"\npath = \"DIR/root.img\"\nmode = \"both\"", `"both" is no mode`},
		"relative":          {"[[disk]]\nname = \"a\"\npath = \"root.img\"", "is not an absolute path"},
		"missing":           {"[[disk]]\nname = \"a\"\npath = \"DIR/none\"", "no such file"},
		"folder":            {"[[disk]]\nname = \"a\"\npath = \"DIR\"", "neither a file nor a block device"},
		"nobody":            {"[[disk]]\nname = \"a\"\npath = \"DIR/root.img\"\nallow = []", "nobody may open"},
		"name twice":        {"[[disk]]\nname = \"a\"\npath = \"DIR/root.img\"\nread_only = true\n[[disk]]\nname = \"a\"\npath = \"DIR/root.img\"\nread_only = true", "there is a disk a already"},
		"of an export":      {"[[export]]\nname = \"a\"\n[[disk]]\nname = \"a\"\npath = \"DIR/root.img\"", "there is an export a already"},
		"written twice":     {"[[disk]]\nname = \"a\"\npath = \"DIR/root.img\"\nread_only = true\n[[disk]]\nname = \"b\"\npath = \"DIR/root.img\"", "one of them is written"},
		"base without uuid": {"[[base]]\nname = \"deb\"\npath = \"DIR/root.img\"", "no UUID is given"},
		"bad uuid":          {"[[base]]\nname = \"deb\"\npath = \"DIR/root.img\"\nuuid = \"g\"", "is no UUID"},
		"base twice":        {baseText + baseText, "there is a base deb already"},
		"uuid twice":        {baseText + strings.Replace(baseText, "deb", "other", 1), "that of the base deb already"},
		"no such base":      {baseText + "[[disk]]\nname = \"a\"\npath = \"DIR/a\"\nbase = \"arch\"", "there is no base arch"},
		"read-only overlay": {baseText + "[[disk]]\nname = \"a\"\npath = \"DIR/a\"\nbase = \"deb\"\nread_only = true", "nothing of its own"},
		"no folder":         {baseText + "[[disk]]\nname = \"a\"\npath = \"DIR/b/a\"\nbase = \"deb\"", "does not exist"},
		"base written":      {baseText + "[[disk]]\nname = \"a\"\npath = \"DIR/root.img\"", "is the base deb already"},
		"overlay twice":     {baseText + "[[disk]]\nname = \"a\"\npath = \"DIR/a\"\nbase = \"deb\"\n[[disk]]\nname = \"b\"\npath = \"DIR/a\"\nbase = \"deb\"", "is the disk a already"},
		"shared, written":   {baseText + "[[disk]]\nname = \"a\"\npath = \"DIR/root.img\"\nshared = \"" + oneUUID + "\"", "shares its pages with nobody"},
		"not authorised":    {"[[disk]]\nname = \"a\"\npath = \"DIR/root.img\"\nread_only = true\nshared = \"" + oneUUID + "\"", "nobody may share"},
		"swap's":            {"[[export]]\nname = \"swap\"\nsize = \"1MiB\"\nstorage = \"DIR/root.img\"\n[[disk]]\nname = \"b\"\npath = \"DIR/root.img\"", "is the storage of export swap already"},
	} {
		if _, err := parseText(t, dir, test.text); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}
