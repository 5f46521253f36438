package scripts

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// setMemory gives a story a folder on memory of its own, and one that is not.
func setMemory(e *testscript.Env) error {
	shm, err := os.MkdirTemp("/dev/shm", "tmemd-story-")
	if err != nil {
		return err
	}
	e.Defer(func() { os.RemoveAll(shm) })
	e.Setenv("SHM", shm)
	// The sources, as temporary files may be on a tmpfs.
	disk, err := os.Getwd()
	e.Setenv("DISK", disk)
	return err
}

// memory does something to memory files:
//
//	memory copy FROM TO          all files of a folder but arenas, which are large
//	memory cut FILE SIZE         make it that long
//	memory poke FILE OFFSET BYTE overwrite one byte
//	memory flip DIR              damage the data in the arenas of a folder
func memory(ts *testscript.TestScript, _ bool, args []string) {
	number := func(text string) int64 {
		n, err := strconv.ParseInt(text, 10, 64)
		ts.Check(err)
		return n
	}
	switch args[0] {
	case "copy":
		ts.Check(os.MkdirAll(args[2], 0o700))
		files, err := os.ReadDir(args[1])
		ts.Check(err)
		for _, f := range files {
			if strings.HasSuffix(f.Name(), ".arena.mem") {
				continue
			}
			text, err := os.ReadFile(filepath.Join(args[1], f.Name()))
			ts.Check(err)
			ts.Check(os.WriteFile(filepath.Join(args[2], f.Name()), text, 0o600))
		}
	case "cut":
		ts.Check(os.Truncate(args[1], number(args[2])))
	case "poke":
		poke(ts, args[1], number(args[2]), byte(number(args[3])))
	case "flip":
		files, err := filepath.Glob(filepath.Join(args[1], "*.arena.mem"))
		ts.Check(err)
		for _, path := range files {
			for page := int64(1); page < 64; page++ {
				poke(ts, path, page*4096+200, 0x5a)
			}
		}
	default:
		ts.Fatalf("memory %s?", args[0])
	}
}

func poke(ts *testscript.TestScript, path string, offset int64, value byte) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	ts.Check(err)
	_, err = f.WriteAt([]byte{value}, offset)
	ts.Check(err)
	ts.Check(f.Close())
}
