package tier

import (
	"bytes"
	"errors"
	"path/filepath"
	"sync"
	"testing"

	"github.com/tmemd/tmemd/backends/backendtest"
)

// TestBuffers: files that share buffers have those of the first four kept, take more
// while more is under way, and nothing stays when they are closed; what goes through
// them is right.
func TestBuffers(t *testing.T) {
	var b Buffers
	folder := t.TempDir()
	var files []*File
	for i := range 20 {
		f, err := b.OpenFile(filepath.Join(folder, string(rune('a'+i))), 64*pageSize)
		if err != nil {
			t.Fatal(err)
		}
		if !f.direct {
			t.Fatalf("%s has no O_DIRECT: nothing here would use a buffer", folder)
		}
		files = append(files, f)
	}
	const kept = bounceFiles * bounceCount * bounceSize
	if got := b.Usage().Resident; got != kept {
		t.Errorf("%d bytes for 20 idle files, want %d", got, kept)
	}
	var wait sync.WaitGroup
	for i, f := range files {
		for page := range uint64(64) {
			wait.Go(func() {
				memory := make([]byte, pageSize+1)
				unaligned, want := memory[1:], backendtest.Mixed(uint64(i)*64+page)
				copy(unaligned, want)
				err := f.WritePages(page, unaligned)
				clear(unaligned)
				if err := errors.Join(err, f.ReadPages(page, unaligned)); err != nil || !bytes.Equal(unaligned, want) {
					t.Errorf("page %d of file %d is not what was written: %v", page, i, err)
				}
			})
		}
	}
	wait.Wait()
	if got := b.Usage().Resident; got != kept {
		t.Errorf("%d bytes when all is done, want %d", got, kept)
	}

	// More at once than are kept, and back.
	lent := 0
	for range 100 {
		r, err := b.get()
		if err != nil {
			t.Fatal(err)
		}
		lent++
		defer b.put(r)
	}
	if got := b.Usage().Resident; got != 100*bounceSize {
		t.Errorf("%d bytes for 100 buffers", got)
	}
	for _, f := range files {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	if got := b.Usage().Resident; got != int64(lent)*bounceSize {
		t.Errorf("%d bytes while %d buffers are out", got, lent)
	}
	t.Cleanup(func() {
		if got := b.Usage().Resident; got != 0 {
			t.Errorf("%d bytes are left", got)
		}
	})
}
