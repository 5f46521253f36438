package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// TestWrittenKnowsEveryKey: no key of a file can change without a reload saying so.
func TestWrittenKnowsEveryKey(t *testing.T) {
	w := Written{}
	w.value("", reflect.ValueOf(full(reflect.TypeFor[file]())))
	for _, k := range keys {
		found := false
		for key := range w {
			plain := strings.ReplaceAll(key, ".x.", ".") // the name of a table of a list
			found = found || plain == "."+k.name || strings.HasPrefix(plain, "."+k.name+".")
		}
		if !found {
			t.Errorf("%s is not compared", k.name)
		}
	}
}

// full makes a value of a type with something in every field.
func full(of reflect.Type) any {
	v := reflect.New(of).Elem()
	fill(v)
	return v.Interface()
}

func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int64:
		v.SetInt(7)
	}
}

// TestWrittenFalse: false that somebody wrote is not the same as nothing.
func TestWrittenFalse(t *testing.T) {
	off := false
	if got := writtenOf(file{StatusPage: &off})["status_page"]; got != "false" {
		t.Errorf("status_page = false is written as %q", got)
	}
}

func TestCompare(t *testing.T) {
	old, fresh := Written{"a": "1", "b": "2", "c": "3"}, Written{"a": "1", "b": "4", "d": "5"}
	want := []Difference{{"b", "2", "4"}, {"c", "3", ""}, {"d", "", "5"}}
	if got := old.Compare(fresh); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := Written(nil).Compare(nil); got != nil {
		t.Errorf("nothing compared with nothing: %v", got)
	}
}

func TestFlagOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(path, []byte("log_level = \"info\"\n[[export]]\nsize = \"8MiB\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	host := Host{RAM: 1 << 30, Env: func(string) string { return "" }, Kinds: []string{"zcache"}}
	c, _, err := Parse([]string{"--config", path, "--state-dir", t.TempDir(), "--log-level", "warn", "--size", "4MiB", "--backend", "none"}, host)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"log_level": "--log-level", "state_dir": "--state-dir", "export.swap.size": "--size", "export.swap.writethrough": "",
		"backend.zcache.codec": "--backend", "metrics": "", "nbd.workers": "", "listen": "",
	} {
		if got := c.FlagOf(key); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	if want := (Written{"log_level": "info", "export.swap": There, "export.swap.size": "8MiB"}); !reflect.DeepEqual(c.Written(), want) || c.File() != path {
		t.Errorf("%s says %v, want %v", c.File(), c.Written(), want)
	}
}
