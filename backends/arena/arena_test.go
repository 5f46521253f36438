package arena

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"testing"
)

func newArena(t testing.TB, limit int64) *Arena {
	t.Helper()
	a, err := New("test arena", limit, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if a.memory == nil {
			return
		}
		if err := a.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return a
}

// object makes an object whose fields and data follow from the seed.
func object(seed uint64, length int) Object {
	data := make([]byte, length)
	source := rand.NewPCG(seed, 6)
	for rest := data; len(rest) > 0; {
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], source.Uint64())
		rest = rest[copy(rest, word[:]):]
	}
	return Object{
		Export: uint32(seed * 2654435761),
		Page:   seed * 0x9e3779b97f4a7c15 % MaxPages,
		Codec:  uint8(1 + seed%MaxCodec),
		Flags:  uint8(seed / 3 % (MaxFlags + 1)),
		Sum:    uint32(seed) ^ 0xdeadbeef,
		Data:   data,
	}
}

func same(a, b Object) bool {
	return a.Export == b.Export && a.Page == b.Page && a.Codec == b.Codec && a.Flags == b.Flags && a.Sum == b.Sum && a.Droppable == b.Droppable && bytes.Equal(a.Data, b.Data)
}

func mustPut(t testing.TB, a *Arena, o Object) Ref {
	t.Helper()
	ref, ok := a.Put(o)
	if !ok {
		t.Fatalf("Put of %d bytes found no room; %+v", len(o.Data), a.Stats())
	}
	return ref
}

func mustGet(t testing.TB, a *Arena, ref Ref, want Object) {
	t.Helper()
	got, ok := a.Get(ref)
	if !ok || !same(got, want) {
		t.Fatalf("Get(%#x) = %+v, %v, want %+v", uint64(ref), got, ok, want)
	}
}

func mustFree(t testing.TB, a *Arena, ref Ref) {
	t.Helper()
	if !a.Free(ref) {
		t.Fatalf("Free(%#x) found nothing", uint64(ref))
	}
}

func TestNewLimits(t *testing.T) {
	for _, limits := range [][2]int64{{-1, 1 << 20}, {0, 1 << 20}, {ChunkSize - 1, 1 << 20}, {1 << 20, 1<<20 - 1}, {1 << 20, maxLimit + 1}} {
		if a, err := New("test arena", limits[0], limits[1]); err == nil {
			a.Close()
			t.Errorf("New with a limit of %d and a capacity of %d succeeded", limits[0], limits[1])
		}
	}
	a := newArena(t, 2*ChunkSize-1)
	if len(a.memory) != ChunkSize {
		t.Errorf("a limit of %d maps %d bytes, want one chunk", 2*ChunkSize-1, len(a.memory))
	}
}

// TestEveryLength puts an object of each length and checks the overhead: the
// header and less than a class step, as far as chunks are full.
func TestEveryLength(t *testing.T) {
	a := newArena(t, 64<<20)
	refs := make([]Ref, MaxData+1)
	total := int64(0)
	for length := 1; length <= MaxData; length++ {
		refs[length] = mustPut(t, a, object(uint64(length), length))
		total += int64(length)
	}
	stats := a.Stats()
	if stats.Objects != MaxData || stats.DataBytes != total {
		t.Errorf("Stats shows %d objects of %d bytes, want %d of %d", stats.Objects, stats.DataBytes, MaxData, total)
	}
	for length := 1; length <= MaxData; length++ {
		mustGet(t, a, refs[length], object(uint64(length), length))
		if refs[length] >= 1<<RefBits {
			t.Fatalf("ref %#x has more than %d bits", uint64(refs[length]), RefBits)
		}
	}
	consistent(t, a)
	for length := 1; length <= MaxData; length++ {
		mustFree(t, a, refs[length])
	}
	empty(t, a)
}

func TestOutOfRange(t *testing.T) {
	a := newArena(t, 1<<20)
	for name, change := range map[string]func(*Object){
		"page":     func(o *Object) { o.Page = MaxPages },
		"no codec": func(o *Object) { o.Codec = 0 },
		"flags":    func(o *Object) { o.Flags = MaxFlags + 1 },
		"codec":    func(o *Object) { o.Codec = MaxCodec + 1 },
		"no data":  func(o *Object) { o.Data = nil },
		"data":     func(o *Object) { o.Data = make([]byte, MaxData+1) },
	} {
		o := object(1, 100)
		change(&o)
		if _, ok := a.Put(o); ok {
			t.Errorf("%s: Put of an object out of range succeeded", name)
		}
	}
	if s := a.Stats(); s != (Stats{}) {
		t.Errorf("refused objects left %+v", s)
	}
	largest := Object{Export: 1<<32 - 1, Page: MaxPages - 1, Codec: MaxCodec, Flags: MaxFlags, Sum: 1<<32 - 1, Data: object(1, MaxData).Data}
	mustGet(t, a, mustPut(t, a, largest), largest)
}

// TestDensity puts pages as a compressor leaves them. What is held beyond their
// data and headers is padding and the tails of chunks, below 3 %, and one
// part-filled chunk for each class.
func TestDensity(t *testing.T) {
	a := newArena(t, 256<<20)
	random := rand.New(rand.NewPCG(1, 1))
	data := object(1, MaxData).Data
	for i := range uint64(40_000) {
		// Sizes about a mean of 1,500 bytes, as lz4 makes of real pages.
		length := int(min(max(random.NormFloat64()*700+1500, 60), 3584))
		mustPut(t, a, Object{Page: i, Codec: 1, Data: data[:length]})
	}
	s := a.Stats()
	waste := s.HeldBytes - s.DataBytes - headerSize*s.Objects - freeSlotBytes(a)
	if float64(waste) > 0.03*float64(s.HeldBytes) {
		t.Errorf("%d of %d bytes are padding and tails", waste, s.HeldBytes)
	}
	if free := freeSlotBytes(a); free > int64(len(a.classes))*ChunkSize {
		t.Errorf("%d bytes are free slots, more than a chunk for each of %d classes", free, len(a.classes))
	}
	if resident := a.Usage()[0].Resident; resident > s.HeldBytes {
		t.Errorf("%d bytes resident, %d held", resident, s.HeldBytes)
	}
}

// freeSlotBytes counts the slots that can still be taken and have memory.
func freeSlotBytes(a *Arena) (total int64) {
	for n := range a.chunks {
		if c := &a.classes[a.chunks[n].class.Load()]; c.size > 0 {
			total += max(0, min(int64(a.chunks[n].touched)*pageSize, c.slots*c.size)-int64(a.chunks[n].used)*c.size)
		}
	}
	return total
}

func largestClass(a *Arena) *class { return &a.classes[len(a.classes)-1] }

func TestLimit(t *testing.T) {
	const chunks = 32
	a := newArena(t, chunks*ChunkSize)
	var refs []Ref
	for i := uint64(0); ; i++ {
		ref, ok := a.Put(object(i, MaxData))
		if !ok {
			break
		}
		refs = append(refs, ref)
	}
	if want := chunks * int(largestClass(a).slots); len(refs) != want {
		t.Errorf("%d objects fit, want %d", len(refs), want)
	}
	if s := a.Stats(); s.HeldBytes != chunks*ChunkSize {
		t.Errorf("%d bytes held when full, want %d", s.HeldBytes, chunks*ChunkSize)
	}
	if _, ok := a.Put(object(1, 1)); ok {
		t.Error("another class found a chunk beyond the limit")
	}
	mustFree(t, a, refs[7])
	refs[7] = mustPut(t, a, object(7, MaxData))
	for i, ref := range refs {
		mustGet(t, a, ref, object(uint64(i), MaxData))
	}
	consistent(t, a)
	for _, ref := range refs {
		mustFree(t, a, ref)
	}
	empty(t, a)
	// The whole region can serve another class now.
	for i := range uint64(chunks * ChunkSize / 64) {
		mustPut(t, a, object(i, 17+int(i%32)))
	}
	consistent(t, a)
}

// TestMemoryReturns checks what the system counts, not what the arena does.
func TestMemoryReturns(t *testing.T) {
	a := newArena(t, 64<<20)
	if got := a.Usage()[0].Resident; got != 0 {
		t.Errorf("%d bytes resident before the first object", got)
	}
	var refs []Ref
	for i := range uint64(10_000) {
		refs = append(refs, mustPut(t, a, object(i, 1+int(i*37%MaxData))))
	}
	full := a.Usage()[0]
	if s := a.Stats(); full.Resident < s.DataBytes || full.Resident > s.HeldBytes {
		t.Errorf("%d bytes resident, %d held, %d of data", full.Resident, s.HeldBytes, s.DataBytes)
	}
	for _, ref := range refs {
		mustFree(t, a, ref)
	}
	empty(t, a)
	if got := a.Usage()[0].Resident; got > warmChunks*ChunkSize {
		t.Errorf("%d bytes resident after all was freed, want at most %d", got, warmChunks*ChunkSize)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	for _, u := range a.Usage() {
		if u.Resident != 0 || u.Mapped != 0 {
			t.Errorf("after Close: %+v", u)
		}
	}
	if s := a.Stats(); s != (Stats{}) {
		t.Errorf("after Close: %+v", s)
	}
}

// TestUntouched puts one object into a fresh chunk: one page of it is touched.
func TestUntouched(t *testing.T) {
	a := newArena(t, 1<<20)
	mustPut(t, a, object(1, 100))
	if got := a.Usage()[0].Resident; got != 4096 {
		t.Errorf("one small object takes %d bytes of memory, want 4096", got)
	}
}

func TestAfterClose(t *testing.T) {
	a := newArena(t, 1<<20)
	ref := mustPut(t, a, object(1, 100))
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := a.Put(object(2, 100)); ok {
		t.Error("Put after Close succeeded")
	}
	if _, ok := a.Get(ref); ok {
		t.Error("Get after Close succeeded")
	}
	if a.Free(ref) {
		t.Error("Free after Close succeeded")
	}
}

func TestAllocations(t *testing.T) {
	a := newArena(t, 4<<20)
	o := object(1, 1000)
	got := testing.AllocsPerRun(1000, func() {
		ref, _ := a.Put(o)
		if _, ok := a.Get(ref); !ok {
			t.Fatal("Get found nothing")
		}
		a.Free(ref)
	})
	if got != 0 {
		t.Errorf("Put, Get and Free allocate %v times", got)
	}
}

// TestNonsense asks for refs that nobody was given.
func TestNonsense(t *testing.T) {
	a := newArena(t, 1<<20)
	ref := mustPut(t, a, object(1, 1000))
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 10_000 {
		wrong := Ref(random.Uint64() >> (i % 64))
		if wrong == ref {
			continue
		}
		if _, ok := a.Get(wrong); ok {
			t.Fatalf("Get(%#x) found an object", uint64(wrong))
		}
		if a.Free(wrong) {
			t.Fatalf("Free(%#x) freed something", uint64(wrong))
		}
	}
	mustGet(t, a, ref, object(1, 1000))
	mustFree(t, a, ref)
	if a.Free(ref) {
		t.Error("Free of a freed object succeeded")
	}
	second := mustPut(t, a, object(2, 1000))
	mustFree(t, a, mustPut(t, a, object(3, 1000)))
	mustGet(t, a, second, object(2, 1000))
	consistent(t, a)
}

func TestStress(t *testing.T) {
	a := newArena(t, 8<<20)
	const workers = 8
	errs := make(chan error, workers)
	for n := range uint64(workers) {
		go func() { errs <- stress(a, n) }()
	}
	for range workers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	consistent(t, a)
	empty(t, a)
}

// stress keeps up to 150 objects of ever other sizes, so that chunks change
// hands between classes all the time, and verifies each before it goes.
func stress(a *Arena, n uint64) error {
	random := rand.New(rand.NewPCG(n, 3))
	type held struct {
		ref Ref
		o   Object
	}
	var mine []held
	buffer := make([]byte, MaxData)
	drop := func() error {
		i := random.IntN(len(mine))
		h := mine[i]
		mine[i] = mine[len(mine)-1]
		mine = mine[:len(mine)-1]
		if got, ok := a.Get(h.ref); !ok || !same(got, h.o) {
			return fmt.Errorf("worker %d: Get(%#x) = %+v, %v, want %+v", n, uint64(h.ref), got, ok, h.o)
		}
		if !a.Free(h.ref) {
			return fmt.Errorf("worker %d: Free(%#x) found nothing", n, uint64(h.ref))
		}
		return nil
	}
	for step := range uint64(6000) {
		if len(mine) > 0 && (len(mine) == 150 || random.IntN(5) < 2) {
			if err := drop(); err != nil {
				return err
			}
			continue
		}
		// The range of sizes moves with time.
		o := object(n<<32+step, 1+int((step/500*331+random.Uint64N(300))%MaxData))
		if ref, ok := a.Put(o); ok {
			mine = append(mine, held{ref, o})
		}
		a.Stats()
		for _, ref := range a.Refs(random.IntN(128), nil) {
			a.Snapshot(ref, buffer)
			a.Mark(ref, 0, 0)
		}
	}
	for len(mine) > 0 {
		if err := drop(); err != nil {
			return err
		}
	}
	return nil
}

// empty expects that nothing is held but warm chunks, with no class owning any.
func empty(t testing.TB, a *Arena) {
	t.Helper()
	s := a.Stats()
	if s.Objects != 0 || s.DataBytes != 0 || s.HeldBytes > warmChunks*ChunkSize {
		t.Fatalf("after all was freed: %+v", s)
	}
	consistent(t, a)
}

// TestClassesStay: what an earlier version left in a folder is read by the number of
// its class, so numbers and sizes stay as they were when a page was the longest
// object. The bytes that a larger object needs were unused in the last class.
func TestClassesStay(t *testing.T) {
	a := newArena(t, 1<<20)
	if last := &a.classes[a.sizes]; a.sizes != 75 || last.size != 4352 || last.slots != 15 || last.least != 4096 {
		t.Errorf("%d classes, the last %d bytes, %d slots, above %d", a.sizes, last.size, last.slots, last.least)
	}
	digest := crc32.NewIEEE()
	for i := range a.sizes + 1 { // those of droppable objects came behind
		fmt.Fprintln(digest, a.classes[i].number, a.classes[i].size, a.classes[i].slots)
	}
	const before = 0x85e5ec5c
	if digest.Sum32() != before {
		t.Errorf("classes have the digest %#x, and had %#x", digest.Sum32(), before)
	}
	for _, length := range []int{1, 16, 17, 1584, 4080, 4081, 4096, MaxData} {
		ref := mustPut(t, a, object(uint64(length), length))
		if _, c, _, _ := a.locate(ref); c.size != a.SlotSize(length) || c.size < int64(length+headerSize) {
			t.Errorf("an object of %d bytes is in a slot of %d, SlotSize says %d", length, c.size, a.SlotSize(length))
		}
	}
}

// TestHeldFor compares with the slots of an arena, in full chunks.
func TestHeldFor(t *testing.T) {
	a := newArena(t, 1<<20)
	for length := 1; length <= MaxData; length++ {
		slot := a.SlotSize(length)
		if got, want := HeldFor(length), ChunkSize/float64(ChunkSize/slot); got != want || got < float64(slot) {
			t.Fatalf("an object of %d bytes, in a slot of %d, is held in %v, want %v", length, slot, got, want)
		}
	}
}
