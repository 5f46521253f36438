package zcache_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/zcache"
)

// secret is a page that says whose it is, throughout: it is found in it whether it is
// compressed or not, as what is said once has to be there.
func secret(owner string, n uint64) []byte {
	page := backendtest.Page(backendtest.Structured, n)
	for at := 0; at+64 <= len(page); at += 256 {
		copy(page[at:], fmt.Sprintf("this is the secret of %s, number %x", owner, n*31+uint64(at)))
	}
	return page
}

// TestDestroyedExportIsOverwritten: when an export is gone, the arena's memory file has
// nothing of its pages, in whatever form they were there, and others have theirs.
func TestDestroyedExportIsOverwritten(t *testing.T) {
	for _, codec := range []zcache.Codec{zcache.LZ4, zcache.Zstd} {
		s := newSurvivor(t, zcache.Config{Limit: 8 << 20, Capacity: 8 << 20, Codec: codec})
		c := s.open(t, zcache.New)
		h := &backendtest.Host{Backend: c}
		const pages = 1500
		for _, id := range []uint32{1, 2} {
			if err := h.Open(id, pages); err != nil {
				t.Fatal(err)
			}
		}
		write := func(id uint32, owner string, round uint64) {
			for page := range uint64(pages) {
				if _, err := h.Write(backends.Key{Export: id, Page: page}, secret(owner, page+round<<16)); err != nil {
					t.Fatal(err)
				}
			}
		}
		for round := range uint64(3) {
			write(1, "alice", round)
			write(2, "bob", round)
		}
		file := func() []byte {
			memory, err := os.ReadFile(filepath.Join(s.folder.Path, "z.arena.mem"))
			if err != nil {
				t.Fatal(err)
			}
			return memory
		}
		if memory := file(); !bytes.Contains(memory, []byte("alice")) || !bytes.Contains(memory, []byte("bob")) {
			t.Fatal("there is nothing to be seen in the first place")
		}
		if c.Used(1) == 0 {
			t.Fatal("the export that is to go has no page left")
		}
		h.Close(1)
		memory := file()
		if at := bytes.Index(memory, []byte("alice")); at >= 0 {
			t.Errorf("%v: at %d of the arena's file: %q", codec, at, memory[at-22:at+20])
		}
		if !bytes.Contains(memory, []byte("bob")) {
			t.Errorf("%v: the other export's pages are gone too", codec)
		}
		if err := h.Check(2); err != nil {
			t.Error(err)
		}
		h.Close(2)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := s.now.Close(); err != nil {
			t.Error(err)
		}
	}
}
