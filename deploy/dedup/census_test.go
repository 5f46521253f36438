package main

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/tmemd/tmemd/backends/arena"
)

// text is a page that compresses, different for each number.
func text(number byte) []byte {
	return bytes.Repeat(append([]byte("a page of text "), number), pageSize/16)
}

func TestCensus(t *testing.T) {
	c, err := newCensus()
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, pageSize)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	for _, page := range [][]byte{
		make([]byte, pageSize), make([]byte, pageSize), bytes.Repeat([]byte{7}, pageSize), // cost nothing already
		noise, noise, // are not kept
		text(1), text(1), text(1), text(2), text(3),
	} {
		c.add(page)
	}
	g := c.gain()
	got := [5]int{g.Pages, g.SameFilled, g.Refused, g.Stored, g.Distinct}
	if want := [5]int{10, 3, 2, 5, 3}; got != want {
		t.Errorf("pages, same-filled, refused, stored, distinct: %v, want %v", got, want)
	}
	one := arena.HeldFor(c.judge.Page(text(1)).LZ4)
	if want := (saving{Held: 5 * one, Once: 3 * one, Index: 3 * indexBytes}); g.LZ4 != want {
		t.Errorf("lz4: %+v, want %+v", g.LZ4, want)
	}
	if got, want := g.LZ4.Share(), (2*one-3*indexBytes)/(5*one); got != want {
		t.Errorf("share %v, want %v", got, want)
	}
}

// Nothing is there twice: the index is a loss, and is shown as one.
func TestCensusWithoutDuplicates(t *testing.T) {
	c, err := newCensus()
	if err != nil {
		t.Fatal(err)
	}
	if got := c.gain().LZ4.Share(); got != 0 {
		t.Errorf("of nothing: %v, want 0", got)
	}
	c.add(text(1))
	c.add(text(2))
	if got := c.gain().LZ4.Share(); got >= 0 {
		t.Errorf("share %v, want a loss", got)
	}
}

// What is in two exports is once in the census of both, and the parts stay as they were.
func TestCensusMerge(t *testing.T) {
	var parts [2]*census
	for i := range parts {
		var err error
		if parts[i], err = newCensus(); err != nil {
			t.Fatal(err)
		}
		parts[i].add(text(1))
		parts[i].add(text(byte(2 + i)))
		parts[i].add(make([]byte, pageSize))
	}
	all, err := newCensus()
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range parts {
		all.merge(part)
	}
	g := all.gain()
	got := [4]int{g.Pages, g.SameFilled, g.Stored, g.Distinct}
	if want := [4]int{6, 2, 4, 3}; got != want {
		t.Errorf("pages, same-filled, stored, distinct: %v, want %v", got, want)
	}
	if part := parts[0].gain(); part.Stored != 2 || part.Distinct != 2 {
		t.Errorf("a part has changed: %+v", part)
	}
}
