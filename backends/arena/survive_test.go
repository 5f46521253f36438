package arena

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/tmemd/tmemd/backends/sharedmem"
)

// home is a folder on memory in which arenas survive.
type home struct {
	t    testing.TB
	path string
}

func newHome(t testing.TB) home {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "tmemd-arena-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return home{t, filepath.Join(dir, "m")}
}

// open opens the folder, once at a time.
func (h home) open(readOnly bool) Place {
	f, err := sharedmem.OpenFolder(sharedmem.FolderConfig{Path: h.path, Boot: "boot", ReadOnly: readOnly})
	if err != nil {
		h.t.Fatal(err)
	}
	return Place{Folder: f, Name: "a"}
}

// leave is what a process does that dies: nothing in memory changes.
func (h home) leave(at Place, a *Arena) {
	at.Folder.Leave()
	if err := errors.Join(a.Close(), at.Folder.Close()); err != nil {
		h.t.Fatal(err)
	}
}

// reopen opens what was left, claims what is named, and settles.
func reopen(t fatalf, at Place, limit int64, names map[Ref]Object) (a *Arena, freed int64) {
	t.Helper()
	a, err := Open(at, "test arena", limit)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	left := make(map[Ref]bool)
	a.Left(func(ref Ref, o Object) {
		if left[ref] {
			t.Fatalf("Left shows %#x twice", uint64(ref))
		}
		if want, ok := names[ref]; ok && !same(o, want) {
			t.Fatalf("Left shows %#x as %+v, want %+v", uint64(ref), o, want)
		}
		left[ref] = true
	})
	for ref, o := range names {
		if !left[ref] {
			t.Fatalf("Left does not show %#x", uint64(ref))
		}
		got, ok := a.Claim(ref, o.Export, o.Page)
		if !ok || !same(got, o) {
			t.Fatalf("Claim(%#x) = %+v, %v, want %+v", uint64(ref), got, ok, o)
		}
		if _, again := a.Claim(ref, o.Export, o.Page); again {
			t.Fatalf("Claim(%#x) succeeded twice", uint64(ref))
		}
		if a.Mark(ref, 1, 0) || a.Mark(ref, 0, MaxFlags) {
			t.Fatalf("Mark changed an arena that is not settled")
		}
	}
	orphans := a.Unclaimed()
	if orphans != int64(len(left)-len(names)) {
		t.Fatalf("%d of %d objects are not claimed, %d were", orphans, len(left), len(names))
	}
	freed, err = a.Settle()
	if err != nil {
		t.Fatalf("Settle: %v", err)
	}
	if freed != orphans {
		t.Fatalf("Settle freed %d objects, %d were not claimed", freed, orphans)
	}
	return a, freed
}

// TestSurvives is TestModel with a process that ends and another that takes over,
// now and then, and forgets a part of what there is.
func TestSurvives(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := newHome(t)
		at := h.open(false)
		a, err := Create(at, "test arena", 24*ChunkSize, 32*ChunkSize)
		if err != nil {
			rt.Fatal(err)
		}
		m := &model{a: a, limit: 24 * ChunkSize, objects: make(map[Ref]Object)}
		rt.Repeat(map[string]func(*rapid.T){
			"put": m.put, "putMany": m.putMany, "get": m.get, "free": m.free, "freeMany": m.freeMany,
			"mark": m.mark, "compact": m.compact, "setLimit": m.setLimit, "walk": m.walk,
			"die": func(rt *rapid.T) {
				// What was being done just then.
				for range rapid.IntRange(0, 3).Draw(rt, "filling") {
					length := int64(rapid.IntRange(1, MaxData).Draw(rt, "length"))
					a.take(&a.classes[a.classFor[(headerSize+length+RefUnit-1)/RefUnit]], length)
				}
				h.leave(at, a)
				forgotten := rapid.IntRange(0, len(m.refs)).Draw(rt, "forgotten")
				for _, ref := range m.refs[:forgotten] {
					m.bytes -= int64(len(m.objects[ref].Data))
					delete(m.objects, ref)
				}
				m.refs = slices.Clone(m.refs[forgotten:])
				at = h.open(false)
				var freed int64
				if a, freed = reopen(rt, at, m.limit, m.objects); freed != int64(forgotten) {
					rt.Fatalf("%d objects freed, %d were forgotten", freed, forgotten)
				}
				m.a = a
			},
			"": func(rt *rapid.T) {
				s := m.a.Stats()
				if s.Objects != int64(len(m.objects)) || s.DataBytes != m.bytes {
					rt.Fatalf("Stats shows %d objects of %d bytes, want %d of %d", s.Objects, s.DataBytes, len(m.objects), m.bytes)
				}
				// One page is the file's header.
				if resident := m.a.Usage()[0].Resident - pageSize; resident > s.HeldBytes {
					rt.Fatalf("A5: %d bytes resident, %d held", resident, s.HeldBytes)
				}
				consistent(rt, m.a)
			},
		})
		for ref, o := range m.objects {
			mustGetModel(rt, m.a, ref, o)
		}
		if err := errors.Join(m.a.Close(), at.Folder.Close()); err != nil {
			rt.Fatal(err)
		}
		if _, err := os.Stat(h.path); !errors.Is(err, os.ErrNotExist) {
			rt.Fatalf("the folder is still there: %v", err)
		}
	})
}

// full makes an arena and fills it with objects of many lengths.
func full(t *testing.T, at Place) (*Arena, map[Ref]Object) {
	t.Helper()
	a, err := Create(at, "test arena", 24*ChunkSize, 32*ChunkSize)
	if err != nil {
		t.Fatal(err)
	}
	objects := map[Ref]Object{}
	for seed := uint64(1); seed < 400; seed++ {
		o := object(seed, int(1+seed*seed%MaxData))
		if ref, ok := a.Put(o); ok {
			objects[ref] = o
		}
	}
	return a, objects
}

// TestOpenChangesNothing: an arena that is examined and not settled is as it was,
// for the process that left it and for any other.
func TestOpenChangesNothing(t *testing.T) {
	h := newHome(t)
	at := h.open(false)
	a, objects := full(t, at)
	h.leave(at, a)
	before := files(t, h.path)
	for _, readOnly := range []bool{true, false} {
		at = h.open(readOnly)
		a, err := Open(at, "test arena", ChunkSize)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for ref, o := range objects {
			if n++; n%2 == 0 {
				continue
			}
			if got, ok := a.Claim(ref, o.Export, o.Page); !ok || !same(got, o) {
				t.Fatalf("Claim(%#x) = %+v, %v", uint64(ref), got, ok)
			}
			if _, ok := a.Claim(ref, o.Export+1, o.Page); ok {
				t.Fatal("claimed for another export")
			}
		}
		if got := a.Unclaimed(); got != int64(len(objects)/2) {
			t.Errorf("%d objects are not claimed, want %d", got, len(objects)/2)
		}
		if err := errors.Join(a.Close(), at.Folder.Close()); err != nil {
			t.Fatal(err)
		}
		if after := files(t, h.path); !slices.Equal(after, before) {
			t.Fatal("the files were changed")
		}
	}
}

func files(t *testing.T, dir string) (contents []string) {
	t.Helper()
	for _, name := range []string{"a.arena.mem", "a.chunks.mem"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		contents = append(contents, string(text))
	}
	return contents
}

// TestOpenDamaged (A3): whatever the bytes of both files are, nothing panics, what
// is claimed is an object that makes sense, and the arena works afterwards.
func TestOpenDamaged(t *testing.T) {
	for seed := range uint64(60) {
		h, random := newHome(t), rand.New(rand.NewPCG(seed, 5))
		at := h.open(false)
		a, objects := full(t, at)
		h.leave(at, a)
		damage(t, filepath.Join(h.path, "a.arena.mem"), random, int(seed%4)*50)
		damage(t, filepath.Join(h.path, "a.chunks.mem"), random, int(seed%3)*20)
		at = h.open(false)
		a, err := Open(at, "test arena", 24*ChunkSize)
		if err != nil {
			t.Fatal(err)
		}
		claimed := map[Ref]Object{}
		for ref, o := range objects {
			if got, ok := a.Claim(ref, o.Export, o.Page); ok {
				claimed[ref] = got
			}
		}
		for range 1000 {
			a.Claim(Ref(random.Uint64N(1<<20)), random.Uint32(), random.Uint64N(100))
		}
		if _, err := a.Settle(); err != nil {
			t.Fatal(err)
		}
		for ref, o := range claimed {
			if got, ok := a.Get(ref); !ok || !same(got, o) {
				t.Fatalf("seed %d: a claimed object is %+v, %v, was %+v", seed, got, ok, o)
			}
		}
		for ref := range claimed {
			if !a.Free(ref) {
				t.Fatalf("seed %d: a claimed object cannot be freed", seed)
			}
		}
		for seed := range uint64(200) {
			if ref, ok := a.Put(object(seed, int(1+seed*20))); ok {
				a.Free(ref)
			}
		}
		consistent(t, a)
		if err := errors.Join(a.Close(), at.Folder.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// damage overwrites words behind the header with others.
func damage(t *testing.T, path string, random *rand.Rand, words int) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const header = 4096
	for range words {
		at := header + random.IntN((len(text)-header)/8)*8
		word := (*uint64)(unsafe.Pointer(&text[at]))
		*word ^= random.Uint64() >> (random.IntN(4) * 16)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestPaddingIsNotTouched: a slot may end in a page of the system that its object
// does not reach, and nobody has touched.
func TestPaddingIsNotTouched(t *testing.T) {
	h := newHome(t)
	at := h.open(false)
	a, err := Create(at, "test arena", 96*ChunkSize, 96*ChunkSize)
	if err != nil {
		t.Fatal(err)
	}
	objects := map[Ref]Object{}
	cases := 0
	for i := 1; i < len(a.classes); i++ {
		c := &a.classes[i]
		length := c.least + 1 - headerSize
		for slot := range c.slots {
			reaches, ends := slot*c.size+headerSize+length, (slot+1)*c.size
			if length < 1 || (reaches-1)/pageSize == (ends-1)/pageSize {
				continue
			}
			cases++
			for range slot + 1 {
				o := object(uint64(len(objects)+1), int(length))
				ref, ok := a.Put(o)
				if !ok {
					t.Fatal("no room")
				}
				objects[ref] = o
			}
			break // the chunk of this class ends here
		}
	}
	if cases == 0 {
		t.Fatal("no class has such a slot")
	}
	h.leave(at, a)
	at = h.open(false)
	a, _ = reopen(t, at, 96*ChunkSize, objects)
	consistent(t, a)
	if err := errors.Join(a.Close(), at.Folder.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestOpenRefuses: files that do not belong together.
func TestOpenRefuses(t *testing.T) {
	h := newHome(t)
	at := h.open(false)
	a, _ := full(t, at)
	h.leave(at, a)
	at = h.open(false)
	defer at.Folder.Close()
	at.Folder.Leave()
	for _, limit := range []int64{0, 33 * ChunkSize} {
		if a, err := Open(at, "test arena", limit); err == nil {
			a.Close()
			t.Errorf("opened with a limit of %d", limit)
		}
	}
	if _, err := Open(at, "another arena", ChunkSize); !errors.Is(err, sharedmem.ErrOtherFolder) {
		t.Errorf("opened for another purpose: %v", err)
	}
	if err := os.Remove(filepath.Join(h.path, "a.chunks.mem")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(at, "test arena", ChunkSize); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("opened without a chunk table: %v", err)
	}
	table, err := at.Folder.Create("a.chunks", tablePurpose("test arena"), tableSize(4000), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Leave()
	if _, err := Open(at, "test arena", ChunkSize); !errors.Is(err, sharedmem.ErrDamaged) {
		t.Errorf("opened with the chunk table of another arena: %v", err)
	}
}

// fullVariable is set in the process that TestFull runs in.
const fullVariable = "TMEMD_ARENA_FULL"

// TestFull: a tmpfs without room is a refusal, not a fault, and memory that comes
// back is used again. It runs in a process with a mount of its own.
func TestFull(t *testing.T) {
	if dir := os.Getenv(fullVariable); dir != "" {
		testFull(t, dir)
		return
	}
	c := exec.Command(os.Args[0], "-test.run=^TestFull$", "-test.v")
	c.Env = append(os.Environ(), fullVariable+"="+t.TempDir())
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		c.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	if output, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
}

func testFull(t *testing.T, dir string) {
	if err := errors.Join(unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""), unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m")); err != nil {
		t.Fatal(err)
	}
	h := home{t, filepath.Join(dir, "m")}
	at := h.open(false)
	a, err := Create(at, "test arena", 64*ChunkSize, 64*ChunkSize)
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		objects, refused := map[Ref]Object{}, 0
		for seed := uint64(1); refused < 200; seed++ {
			o := object(seed, int(1+seed*997%2000))
			if ref, ok := a.Put(o); ok {
				objects[ref] = o
			} else {
				refused++
			}
		}
		if _, ok := a.Put(object(1, 4000)); ok {
			t.Error("there was room for the first chunk of a class")
		}
		consistent(t, a)
		for n := range a.chunks {
			if a.chunks[n].class.Load() != 0 && a.chunks[n].used == 0 {
				t.Errorf("A4: chunk %d has a class and no object", n)
			}
		}
		if s := a.Stats(); s.HeldBytes < 700<<10 || s.HeldBytes > 1<<20 {
			t.Errorf("round %d: %d bytes held of 1 MiB", round, s.HeldBytes)
		}
		if err := os.WriteFile(filepath.Join(dir, "more"), make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("the tmpfs is not full: %v", err)
		}
		if err := os.Remove(filepath.Join(dir, "more")); err != nil {
			t.Fatal(err)
		}
		if round == 1 { // and somebody takes over
			h.leave(at, a)
			at = h.open(false)
			a, _ = reopen(t, at, 64*ChunkSize, objects)
			consistent(t, a)
		}
		for ref, o := range objects {
			if got, ok := a.Get(ref); !ok || !same(got, o) {
				t.Fatalf("Get(%#x) = %+v, %v", uint64(ref), got, ok)
			}
			a.Free(ref)
		}
		consistent(t, a)
	}
	if err := errors.Join(a.Close(), at.Folder.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := sharedmem.OpenFolder(sharedmem.FolderConfig{Path: filepath.Join(dir, "x")}); err != nil {
		t.Fatal(fmt.Errorf("another folder: %w", err))
	}
}
