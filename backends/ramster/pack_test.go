package ramster

import (
	"bytes"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/packed"
)

// TestPackRemote: pages that donors have are packed as they were before they were sent, and
// unpacked here they are what they were.
func TestPackRemote(t *testing.T) {
	o := newOwner(t, testConfig("a", "b"), newNetwork("a", "b"))
	o.write(0, 200, 1)
	o.awaitSent()
	decoder, err := packed.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	dst, page := make([]byte, backends.PageSize), make([]byte, backends.PageSize)
	remote := 0
	for number, want := range o.written {
		key := backends.Key{Export: 1, Page: number}
		handle, held := o.host.Held(key)
		if !held {
			continue
		}
		p, err := o.Pack(key, handle, dst)
		if err != nil {
			t.Fatal(err)
		}
		if err := decoder.Decode(p, page); err != nil || !bytes.Equal(page, want) {
			t.Fatalf("page %d, packed as %s, is another one: %v", number, p.Encoding, err)
		}
		if p.Encoding == backends.EncodingLZ4 {
			remote++
		}
		other := backends.Key{Export: 1, Page: number + 2000}
		unpacked, refusal, err := o.Unpack(other, p)
		if err != nil || refusal != backends.Accepted {
			t.Fatalf("unpack page %d: %v, %v", number, refusal, err)
		}
		if err := o.Load(other, unpacked, page); err != nil || !bytes.Equal(page, want) {
			t.Fatalf("page %d, unpacked, is another one: %v", number, err)
		}
		o.Invalidate(other, unpacked)
	}
	if remote < 100 {
		t.Errorf("only %d pages were packed as donors had them", remote)
	}
}
