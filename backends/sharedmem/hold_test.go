package sharedmem

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapped counts the pages of b that this process has mapped, as the kernel says.
func mapped(t *testing.T, b []byte) (pages int) {
	t.Helper()
	flags := make([]byte, 8*((len(b)+page-1)/page))
	fd, err := unix.Open("/proc/self/pagemap", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	at := int64(uintptr(unsafe.Pointer(&b[0]))) / page * 8
	if _, err := unix.Pread(fd, flags, at); err != nil {
		t.Fatal(err)
	}
	for i := 7; i < len(flags); i += 8 {
		pages += int(flags[i] >> 7)
	}
	return pages
}

// TestHold: beside the process that a folder belongs to, what has memory is mapped,
// nothing else takes any, what comes later is found, and regions are of that mapping.
func TestHold(t *testing.T) {
	c := FolderConfig{Path: memoryDir(t), Identity: someone, Boot: "boot"}
	f := openFolder(t, c)
	r, err := f.Create("one", "page map", 64*page, 7)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text(r.Bytes()[8*page:12*page], 1)
	c.ReadOnly, c.Inherited = true, duplicate(t, f)
	held := openFolder(t, c)
	hold := func(want int) {
		t.Helper()
		if err := held.Hold(); err != nil {
			t.Fatal(err)
		}
		if got := mapped(t, held.held["one"].Bytes()); got != want {
			t.Errorf("%d pages are mapped, want %d", got, want)
		}
		if got := r.Usage().Resident; got != int64(want)*page+headerSize {
			t.Errorf("%d bytes have memory, want that of %d pages", got, want)
		}
	}
	hold(4)
	if head := held.held["one"].past[0]; mapped(t, head) != 1 {
		t.Error("the header is not mapped")
	}
	text(r.Bytes()[40*page:41*page], 1)
	if err := r.Punch(8*page, page); err != nil {
		t.Fatal(err)
	}
	hold(4)
	again, note, err := held.Open("one", "page map")
	if err != nil || note != 7 || &again.Bytes()[0] != &held.held["one"].Bytes()[0] {
		t.Fatalf("opened with the note %d: %v", note, err)
	}
	if _, _, err := held.Open("one", "something else"); !errors.Is(err, ErrOtherFolder) {
		t.Errorf("for another purpose: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	hold(4)
	if !bytes.Equal(held.held["one"].Bytes()[40*page:41*page], r.Bytes()[40*page:41*page]) {
		t.Error("it holds something else")
	}
}

// TestHoldDamaged: what cannot be taken over cannot be held.
func TestHoldDamaged(t *testing.T) {
	c := FolderConfig{Path: memoryDir(t), Identity: someone, Boot: "boot"}
	f := openFolder(t, c)
	r, err := f.Create("one", "page map", page, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c.ReadOnly, c.Inherited, c.Boot = true, duplicate(t, f), "another"
	if err := openFolder(t, c).Hold(); !errors.Is(err, ErrOtherBoot) {
		t.Errorf("of another boot: %v", err)
	}
}

// TestKeep: a region that is opened to be kept is mapped as far as it has memory.
func TestKeep(t *testing.T) {
	c := FolderConfig{Path: memoryDir(t), Identity: someone, Boot: "boot"}
	f := openFolder(t, c)
	r, err := f.Create("one", "page map", 64*page, 0)
	if err != nil {
		t.Fatal(err)
	}
	text(r.Bytes()[8*page:12*page], 1)
	f.Leave()
	if err := errors.Join(r.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	for keep, want := range map[bool]int{false: 0, true: 4} {
		c.Keep = keep
		f := openFolder(t, c)
		f.Leave()
		r, _, err := f.Open("one", "page map")
		if err != nil {
			t.Fatal(err)
		}
		if got := mapped(t, r.Bytes()); got != want {
			t.Errorf("keep %t: %d pages are mapped, want %d", keep, got, want)
		}
		if err := errors.Join(r.Close(), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// duplicate is a folder's lock as another process is given it.
func duplicate(t *testing.T, f *Folder) *os.File {
	t.Helper()
	fd, err := unix.Dup(int(f.Lock().Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "lock")
}
