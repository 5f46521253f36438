package sharedmem

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
)

const page = 4096

func newFile(t *testing.T, size int64) *Region {
	t.Helper()
	r, err := NewFile("test file", size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if r.data == nil {
			return
		}
		if err := r.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return r
}

// text fills b with lines that depend on the position, and on the round.
func text(b []byte, round int) {
	for at := 0; at < len(b); {
		at += copy(b[at:], fmt.Sprintf("line at %d of round %d\n", at, round))
	}
}

func TestFileIsZeroAndTakesMemoryWhenTouched(t *testing.T) {
	const size = 64 * page
	r := newFile(t, size)
	if u := r.Usage(); u.Purpose != "test file" || u.Mapped != size || u.Resident != 0 {
		t.Errorf("untouched: %+v", u)
	}
	for touched := range int64(4) {
		r.Bytes()[touched*16*page] = 'x'
		if got := r.Usage().Resident; got != (touched+1)*page {
			t.Errorf("%d bytes resident after %d pages were touched", got, touched+1)
		}
	}
	for touched := range 4 {
		r.Bytes()[touched*16*page] = 0
	}
	if !bytes.Equal(r.Bytes(), make([]byte, size)) {
		t.Error("a new file is not all zero")
	}
	if got := r.Usage().Resident; got != size {
		t.Errorf("M4: %d bytes resident after all were read, want %d", got, size)
	}
}

func TestPunch(t *testing.T) {
	const size = 64 * page
	r := newFile(t, size)
	text(r.Bytes(), 1)
	want := bytes.Clone(r.Bytes())
	if got := r.Usage().Resident; got != size {
		t.Fatalf("%d bytes resident when full, want %d", got, size)
	}
	if err := r.Punch(16*page, 8*page); err != nil {
		t.Fatal(err)
	}
	clear(want[16*page : 24*page])
	if got := r.Usage().Resident; got != 56*page {
		t.Errorf("M2: %d bytes resident, want %d", got, 56*page)
	}
	if !bytes.Equal(r.Bytes(), want) {
		t.Error("M2: punched bytes are not zero, or others were changed")
	}
	text(r.Bytes()[16*page:24*page], 2)
	text(want[16*page:24*page], 2)
	if !bytes.Equal(r.Bytes(), want) {
		t.Error("M1: the region does not hold what was written after Punch")
	}
}

func TestPunchFails(t *testing.T) {
	r := newFile(t, 4*page)
	if err := r.Punch(-page, page); err == nil {
		t.Error("Punch of a negative offset succeeded")
	}
	private, err := NewPrivate("test buffers", 4*page)
	if err != nil {
		t.Fatal(err)
	}
	defer private.Close()
	if err := private.Punch(0, page); err == nil || !strings.Contains(err.Error(), "test buffers") {
		t.Errorf("Punch of private memory: %v, want an error that names its purpose", err)
	}
}

func TestPrivate(t *testing.T) {
	const size = 32 * page
	r, err := NewPrivate("test buffers", size)
	if err != nil {
		t.Fatal(err)
	}
	if u := r.Usage(); u != (Usage{Purpose: "test buffers", Mapped: size, Resident: size}) {
		t.Errorf("Usage: %+v", u)
	}
	text(r.Bytes(), 1)
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if u := r.Usage(); u.Mapped != 0 || u.Resident != 0 {
		t.Errorf("after Close: %+v", u)
	}
}

func TestSizes(t *testing.T) {
	for _, size := range []int64{0, -1, 1 << 62} {
		if r, err := NewFile("test file", size); err == nil {
			r.Close()
			t.Errorf("NewFile of %d bytes succeeded", size)
		}
		if r, err := NewPrivate("test buffers", size); err == nil {
			r.Close()
			t.Errorf("NewPrivate of %d bytes succeeded", size)
		}
	}
}

// TestClose checks that the descriptor and the mapping are gone.
func TestClose(t *testing.T) {
	before := descriptors(t)
	for range 20 {
		r := newFile(t, 16*page)
		text(r.Bytes(), 1)
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if u := r.Usage(); u != (Usage{Purpose: "test file"}) {
			t.Errorf("after Close: %+v", u)
		}
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d memory files are open, %d before", after, before)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(maps, []byte("tmemd test file")) {
		t.Error("a closed region is still mapped")
	}
}

func descriptors(t *testing.T) (count int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + entry.Name()); err == nil && strings.Contains(target, "tmemd test file") {
			count++
		}
	}
	return count
}

// TestConcurrent punches and reads usage from several goroutines, while others
// write, and closes while usage is read.
func TestConcurrent(t *testing.T) {
	const workers, share = 4, 4 * page
	r := newFile(t, workers*share)
	stop := make(chan struct{})
	var readers, writers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if u := r.Usage(); u.Resident < 0 || u.Resident > workers*share {
						t.Errorf("Usage: %+v", u)
						return
					}
				}
			}
		})
	}
	for n := range int64(workers) {
		writers.Go(func() {
			mine := r.Bytes()[n*share : (n+1)*share]
			for round := range 25 {
				text(mine, round)
				if err := r.Punch(n*share, share); err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(mine, make([]byte, share)) {
					t.Errorf("M2: worker %d: punched bytes are not zero", n)
					return
				}
			}
		})
	}
	writers.Wait()
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	close(stop)
	readers.Wait()
}

// TestGrow: what was there stays where it was, under both addresses, and what
// is new is zero.
func TestGrow(t *testing.T) {
	r := newFile(t, 2*page)
	before := r.Bytes()
	text(before, 1)
	if err := r.Grow(16*page, true); err != nil {
		t.Fatal(err)
	}
	after := r.Bytes()
	if len(after) != 16*page || !bytes.Equal(after[:2*page], before) || !bytes.Equal(after[2*page:], make([]byte, 14*page)) {
		t.Fatal("the grown region is not what was there, and zeros")
	}
	before[5], after[page] = 'x', 'y'
	if after[5] != 'x' || before[page] != 'y' {
		t.Error("the old and the new address are not the same memory")
	}
	if u := r.Usage(); u.Mapped != 18*page || u.Resident != 16*page {
		t.Errorf("usage: %+v", u)
	}
	if err := r.Grow(page, true); err != nil || len(r.Bytes()) != 16*page {
		t.Errorf("growing to less: %v, %d bytes", err, len(r.Bytes()))
	}
	if err := r.Grow(-1<<62, true); err != nil || len(r.Bytes()) != 16*page {
		t.Errorf("growing to nothing: %v", err)
	}
	if err := r.Grow(1<<62, true); err == nil {
		t.Error("grew beyond any address space")
	}
	before[7] = 'z' // still there after what failed
	if u := r.Usage(); u.Mapped != 18*page {
		t.Errorf("usage after a failure: %+v", u)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if u := r.Usage(); u.Mapped != 0 || u.Resident != 0 {
		t.Errorf("usage after Close: %+v", u)
	}
}
