package corpus

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// textFolders is where text is looked for, after Go's standard library.
var textFolders = []string{"/usr/share/doc", "/usr/include", "/var/lib/dpkg/info"}

var textNames = []string{".go", ".md", ".txt", ".html", ".h", ".list", ".postinst", "copyright"}

// maxTexts bounds the files that are looked at in each folder.
const maxTexts = 4096

// sampleText collects pages of text files, as editors, caches and compilers
// hold them.
func sampleText(ctx context.Context, c *collection, _ int, folder string, random *rand.Rand) error {
	folders := textFolders
	if goroot, err := output(ctx, folder, "go", "env", "GOROOT"); err == nil {
		folders = append([]string{filepath.Join(strings.TrimSpace(goroot), "src")}, folders...)
	}
	var paths []string
	for _, folder := range folders {
		paths = append(paths, texts(folder)...)
	}
	random.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
	for _, path := range paths {
		if c.full() || ctx.Err() != nil {
			break
		}
		data, err := os.ReadFile(path)
		if err != nil {
			continue // gone, or not for us
		}
		for data = data[:len(data)/PageSize*PageSize]; len(data) > 0; {
			part := min(len(data), runPages*PageSize)
			c.add(data[:part])
			data = data[part:]
		}
	}
	if c.collected == 0 {
		return errors.New("no text files found")
	}
	return nil
}

// texts returns text files below the folder that have at least a page.
func texts(folder string) []string {
	var paths []string
	// Folders that are missing or closed have no texts.
	_ = filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if len(paths) == maxTexts {
			return fs.SkipAll
		}
		isText := slices.Contains(textNames, filepath.Ext(path)) || slices.Contains(textNames, entry.Name())
		if !entry.Type().IsRegular() || !isText {
			return nil
		}
		if info, err := entry.Info(); err == nil && info.Size() >= PageSize && info.Size() < 1<<20 {
			paths = append(paths, path)
		}
		return nil
	})
	return paths
}

// sampleRandom collects random bytes.
func sampleRandom(_ context.Context, c *collection, _ int, _ string, random *rand.Rand) error {
	for !c.full() {
		pages := make([]byte, runPages*PageSize)
		for b := pages; len(b) > 0; b = b[8:] {
			binary.LittleEndian.PutUint64(b, random.Uint64())
		}
		c.add(pages)
	}
	return nil
}
