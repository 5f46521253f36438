package arena

import "testing"

// TestTouchKeepsMemory: after Touch the arena has all memory of its limit, before
// and after it is used, and across compaction; a lower limit gives it back.
func TestTouchKeepsMemory(t *testing.T) {
	const limit = 64 * ChunkSize
	a, err := New("test", limit, 2*limit)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.Touch(); err != nil {
		t.Fatal(err)
	}
	resident := func(when string) {
		t.Helper()
		if got := a.Usage()[0].Resident; got != limit {
			t.Errorf("%s: %d bytes resident, want %d", when, got, limit)
		}
	}
	resident("at first")
	if held := a.Stats().HeldBytes; held != 0 {
		t.Errorf("%d bytes are held by nothing", held)
	}
	var refs []Ref
	for n := uint64(0); ; n++ {
		ref, ok := a.Put(object(n, 2000))
		if !ok {
			break
		}
		refs = append(refs, ref)
	}
	resident("full")
	for _, ref := range refs[len(refs)/4:] {
		a.Free(ref)
	}
	a.Compact(8, func(ref Ref) bool { return false })
	resident("three quarters freed")
	for _, ref := range refs[:len(refs)/4] {
		a.Free(ref)
	}
	resident("empty")
	consistent(t, a)
	if _, ok := a.Put(object(1, 2000)); !ok {
		t.Error("kept memory is not used again")
	}
	if err := a.SetLimit(ChunkSize); err != nil {
		t.Fatal(err)
	}
	if got := a.Usage()[0].Resident; got >= limit {
		t.Errorf("a lower limit gives nothing back: %d bytes", got)
	}
}
