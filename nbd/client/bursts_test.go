package client

import (
	"bytes"
	"testing"
)

func TestBursts(t *testing.T) {
	const pages, burst = 128, 20
	source := newSamples(50)
	device, address := serve(t, "unix", pages, false)
	c := dial(t, "unix", address)
	content := NewContent(source, 0, pages)
	w := NewBursts(content, 1, burst)
	for _, depth := range []int{1, 16} {
		for i := range pages {
			content.Forget(i)
		}
		if result, err := c.Run(t.Context(), w, Options{Depth: depth}); err != nil || result.Requests() != 0 {
			t.Fatalf("depth %d: a burst that did not begin: %v, error %v", depth, result, err)
		}
		w.Begin()
		first := w.at
		result, err := c.Run(t.Context(), w, Options{Depth: depth})
		if err != nil {
			t.Fatal(err)
		}
		if result.Writes.Count() != burst || result.Requests() != burst {
			t.Errorf("depth %d: %d writes of %d requests", depth, result.Writes.Count(), result.Requests())
		}
		for i := range pages {
			holds := content.holds[i]
			if written := holds != unknown; written != (i >= first && i < first+burst) {
				t.Errorf("depth %d: page %d is written: %v, with the burst at %d", depth, i, written, first)
			} else if written && !bytes.Equal(device.page(i), source[holds]) {
				t.Errorf("depth %d: page %d is not what was written", depth, i)
			}
		}
	}
}

// TestPart drives the parts of a content at once, under the race detector, and
// then the whole.
func TestPart(t *testing.T) {
	const parts, pages = 4, 64
	_, address := serve(t, "unix", parts*pages+1, false)
	content := NewContent(newSamples(50), 1, parts*pages)
	run := func(c *Conn, w Workload) *Result {
		result, err := c.Run(t.Context(), w, Options{Depth: 8})
		if err != nil {
			t.Error(err)
			return new(Result)
		}
		return result
	}
	whole := dial(t, "unix", address)
	run(whole, NewFill(content))
	t.Run("at once", func(t *testing.T) {
		for i := range parts {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				c := dial(t, "unix", address)
				part := content.Part(i*pages, pages)
				run(c, Limit(NewRandomWrite(part, uint64(i)), 500))
				if n := run(c, NewScan(part)).Reads.Count(); n != pages || part.Pages() != pages {
					t.Errorf("part %d: %d pages read of %d", i, n, part.Pages())
				}
			})
		}
	})
	if n := run(whole, NewScan(content)).Reads.Count(); n != parts*pages {
		t.Errorf("%d pages read", n)
	}
}

func TestForget(t *testing.T) {
	content := NewContent(newSamples(1), 0, 8)
	for i := range 8 {
		content.holds[i] = 0
	}
	content.Forget(3)
	w := NewRandomRead(content, 1, 1)
	var r Request
	for range 1000 {
		if !w.Next(&r) {
			t.Fatal("no page is known")
		}
		if w.Done(&r); r.Offset == 3*PageSize {
			t.Fatal("a forgotten page was read")
		}
	}
}
