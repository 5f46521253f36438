package vm

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// entry is one file as the kernel would see it.
type entry struct {
	name    string
	mode    uint64
	content string
}

// readArchive reads newc cpio by the kernel's rules, not by the writer's.
func readArchive(data []byte) ([]entry, error) {
	var entries []entry
	inodes := make(map[uint64]bool)
	for at := 0; ; {
		if len(data)-at < 110 || string(data[at:at+6]) != "070701" {
			return nil, fmt.Errorf("no header at %d", at)
		}
		var fields [13]uint64
		for i := range fields {
			value, err := strconv.ParseUint(string(data[at+6+8*i:at+14+8*i]), 16, 32)
			if err != nil {
				return nil, err
			}
			fields[i] = value
		}
		start, size, length := at+110, int(fields[6]), int(fields[11])
		body := (start + length + 3) &^ 3
		if body+size > len(data) || data[start+length-1] != 0 {
			return nil, fmt.Errorf("entry at %d runs past the end, or its name has none", at)
		}
		name := string(data[start : start+length-1])
		at = (body + size + 3) &^ 3
		if name == "TRAILER!!!" {
			if at != len(data) {
				return nil, fmt.Errorf("%d bytes after the end mark", len(data)-at)
			}
			return entries, nil
		}
		if inodes[fields[0]] {
			return nil, fmt.Errorf("%s has the inode of another file: the kernel would link them", name)
		}
		inodes[fields[0]] = true
		if fields[2] != 0 || fields[3] != 0 || fields[5] != 0 {
			return nil, fmt.Errorf("%s: owner %d, group %d, time %d; want zeros", name, fields[2], fields[3], fields[5])
		}
		entries = append(entries, entry{name: name, mode: fields[1], content: string(data[body : body+size])})
	}
}

func TestArchive(t *testing.T) {
	a := archive{
		"init":                           {content: []byte("#!/bin/busybox sh\n"), executable: true},
		"lib/x86_64-linux-gnu/libc.so.6": {content: []byte("12345"), executable: true},
		"lib64/ld-linux-x86-64.so.2":     {content: []byte("1234567")},
		"lib/empty":                      {},
	}
	var data bytes.Buffer
	if err := a.write(&data); err != nil {
		t.Fatal(err)
	}
	entries, err := readArchive(data.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	want := []entry{
		{"init", 0o100755, "#!/bin/busybox sh\n"},
		{"lib", 0o040755, ""},
		{"lib/empty", 0o100644, ""},
		{"lib/x86_64-linux-gnu", 0o040755, ""},
		{"lib/x86_64-linux-gnu/libc.so.6", 0o100755, "12345"},
		{"lib64", 0o040755, ""},
		{"lib64/ld-linux-x86-64.so.2", 0o100644, "1234567"},
	}
	if fmt.Sprint(entries) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", entries, want)
	}
	// The same bytes on every machine (V5).
	sum := sha256.Sum256(data.Bytes())
	if got := hex.EncodeToString(sum[:]); got != "e1732fe1b00bc94d2f60afe9b5dec628497d899034bcbc8564f9451af361c343" {
		t.Errorf("sha256 is %s", got)
	}
}

// Whatever goes in comes out, each folder before what is in it.
func TestArchiveRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := make(archive)
		for range rapid.IntRange(0, 12).Draw(t, "files") {
			// Names of folders and of files differ, so that no path is both.
			folders := rapid.SliceOfN(rapid.StringMatching(`d[a-c.]{0,3}`), 0, 3).Draw(t, "folders")
			name := strings.Join(append(folders, rapid.StringMatching(`f[a-z-]{0,9}`).Draw(t, "name")), "/")
			a[name] = archiveFile{content: rapid.SliceOf(rapid.Byte()).Draw(t, "content"), executable: rapid.Bool().Draw(t, "executable")}
		}
		var data bytes.Buffer
		if err := a.write(&data); err != nil {
			t.Fatal(err)
		}
		entries, err := readArchive(data.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		there, files := map[string]bool{".": true}, 0
		for _, e := range entries {
			if there[e.name] {
				t.Fatalf("%s is there twice", e.name)
			}
			there[e.name] = true
			for _, dir := range parents(e.name) {
				if !there[dir] {
					t.Fatalf("%s comes before its folder %s", e.name, dir)
				}
			}
			if e.mode == modeDirectory {
				continue
			}
			files++
			if file, ok := a[e.name]; !ok || string(file.content) != e.content || file.executable != (e.mode == modeExecutable) {
				t.Fatalf("%s came out as %+v; want %+v", e.name, e, file)
			}
		}
		if files != len(a) {
			t.Fatalf("%d files came out; want %d", files, len(a))
		}
	})
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestArchiveSaysThatItCouldNotBeWritten(t *testing.T) {
	a := archive{"big": {content: make([]byte, 1<<20)}}
	if err := a.write(fullDisk{}); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("got %v", err)
	}
	if err := (archive{}).write(fullDisk{}); err == nil {
		t.Error("an error of the last write is lost")
	}
}
