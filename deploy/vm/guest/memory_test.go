package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func testMemory(t *testing.T, pages int) *memory {
	t.Helper()
	m, err := newMemory(pages, 11)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestMemoryHoldsWhatItMust(t *testing.T) {
	m, scratch := testMemory(t, 8), make([]byte, pageSize)
	check := func(when string) {
		t.Helper()
		for page := range 8 {
			if err := m.verify(page, scratch); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
	}
	check("before any write")
	for page := range 8 {
		m.write(page)
	}
	check("written")
	m.write(3)
	check("page 3 rewritten")
	if err := m.drop(2, 4); err != nil {
		t.Fatal(err)
	}
	check("pages 2 to 5 dropped")
	if got := m.page(3); !bytes.Equal(got, make([]byte, pageSize)) {
		t.Errorf("a dropped page holds %x...", got[:8])
	}
	m.write(3)
	check("page 3 written again")
	if m.versions[3] != 3 {
		t.Errorf("page 3 has version %d after three writes and a drop; a version must not come twice (G2)", m.versions[3])
	}
}

// Each way in which a page can be wrong is found and named.
func TestMismatchSaysWhatThePageHolds(t *testing.T) {
	tests := []struct {
		name   string
		damage func(m *memory) // of page 5, which is at version 3
		want   []string        // parts of the error
	}{
		{"one bit", func(m *memory) { m.page(5)[4095] ^= 0x10 },
			[]string{"page 5 version 3: 1 bytes differ from offset 4095 on", "the start of version 3"}},
		{"older version", func(m *memory) { fill(m.page(5), m.seed, 5, 2) },
			[]string{"from offset 0 on", "all of an older version: 2"}},
		{"another page", func(m *memory) { copy(m.page(5), m.page(6)) },
			[]string{"all of another page: page 6 version 1"}},
		{"half of another page", func(m *memory) { copy(m.page(5)[:2048], m.page(6)) },
			[]string{"the start of another page: page 6 version 1"}},
		{"zeros", func(m *memory) { clear(m.page(5)) },
			[]string{"it holds zeros"}},
		{"foreign bytes", func(m *memory) { copy(m.page(5), bytes.Repeat([]byte{0xff}, pageSize)) },
			[]string{"it holds nothing this run wrote", "got ffffffff"}},
		{"content in a dropped page", func(m *memory) { m.versions[5] = 0 },
			[]string{"page 5 version 0", "all of version 3"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m, scratch := testMemory(t, 8), make([]byte, pageSize)
			for page := range 8 {
				m.write(page)
			}
			m.write(5)
			m.write(5)
			test.damage(m)
			err := m.verify(5, scratch)
			if _, ok := errors.AsType[*mismatchError](err); !ok {
				t.Fatalf("got %v; want a mismatch", err)
			}
			for _, part := range test.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
			if err := m.verify(6, scratch); err != nil {
				t.Errorf("its neighbour: %v", err)
			}
		})
	}
}

func TestVerifyDoesNotAllocate(t *testing.T) {
	m, scratch := testMemory(t, 64), make([]byte, pageSize)
	page := 0
	n := testing.AllocsPerRun(1000, func() {
		m.write(page)
		if err := m.verify(page, scratch); err != nil {
			t.Error(err)
		}
		page = (page + 1) % 64
	})
	if n != 0 {
		t.Errorf("%v allocations a page", n)
	}
}
