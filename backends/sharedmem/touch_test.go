package sharedmem

import (
	"bytes"
	"os"
	"testing"
)

// TestTouch: the memory is there afterwards, what was written is too, and what
// lies outside has none.
func TestTouch(t *testing.T) {
	page := int64(os.Getpagesize())
	r, err := NewFile("test", 64*page)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	copy(r.Bytes()[3*page:], "kept")
	if err := r.Touch(0, 40*page); err != nil {
		t.Fatal(err)
	}
	if got := r.Usage().Resident; got != 40*page {
		t.Errorf("%d bytes have memory, want %d", got, 40*page)
	}
	if !bytes.HasPrefix(r.Bytes()[3*page:], []byte("kept\x00")) {
		t.Error("touching changed what was there")
	}
	if start, end := r.Touched(0); start != 0 || end != 40*page {
		t.Errorf("touched from %d to %d", start, end)
	}
	if err := r.Touch(0, 0); err != nil {
		t.Error(err)
	}
}
