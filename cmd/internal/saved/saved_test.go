package saved

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/tmemd/tmemd/backends"
)

const exportPages = 10_000

func header() Header {
	return Header{Name: "vm1", Size: exportPages * backends.PageSize, Content: [16]byte{1, 2, 3}}
}

func page(number uint64) backends.Packed {
	return backends.Packed{
		Encoding: backends.EncodingLZ4, Sum: uint32(number * 7),
		Data: bytes.Repeat([]byte{byte(number), byte(number >> 8)}, 1+int(number*37%2048)),
	}
}

func save(t testing.TB, pages []uint64) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, header())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range pages {
		if err := w.Page(n, page(n)); err != nil {
			t.Fatal(err)
		}
	}
	if totals, err := w.Close(); err != nil || totals.Pages != uint64(len(pages)) || totals.Holes != exportPages-uint64(len(pages)) {
		t.Fatalf("%+v, %v", totals, err)
	}
	return b.Bytes()
}

// TestRoundTrip: none, the first, the last and many pages.
func TestRoundTrip(t *testing.T) {
	var many []uint64
	for n := uint64(3); n < exportPages; n += 1 + n%5 {
		many = append(many, n)
	}
	for _, pages := range [][]uint64{nil, {0}, {exportPages - 1}, {0, 1, 2, exportPages - 1}, many} {
		file := save(t, pages)
		r, err := NewReader(bytes.NewReader(file))
		if err != nil || r.Header != header() {
			t.Fatalf("%+v, %v", r, err)
		}
		var got []uint64
		for {
			n, p, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if want := page(n); p.Encoding != want.Encoding || p.Sum != want.Sum || !bytes.Equal(p.Data, want.Data) {
				t.Fatalf("page %d is another one", n)
			}
			got = append(got, n)
		}
		if !slices.Equal(got, pages) {
			t.Errorf("%d pages became %d", len(pages), len(got))
		}
	}
}

// TestDamage: each bit matters, and each place to cut.
func TestDamage(t *testing.T) {
	file := save(t, []uint64{0, 5, 9_999})
	var format FormatError
	for at := range file {
		damaged := bytes.Clone(file)
		damaged[at] ^= 0x40
		if _, _, err := Check(bytes.NewReader(damaged)); !errors.As(err, &format) {
			t.Fatalf("byte %d flipped: %v", at, err)
		}
		if _, _, err := Check(bytes.NewReader(file[:at])); !errors.As(err, &format) {
			t.Fatalf("cut after %d bytes: %v", at, err)
		}
	}
	if _, _, err := Check(bytes.NewReader(append(bytes.Clone(file), 0))); !errors.As(err, &format) {
		t.Errorf("something appended: %v", err)
	}
	other := bytes.Clone(file)
	binary.LittleEndian.PutUint32(other[8:], 2)
	if _, _, err := Check(bytes.NewReader(other)); err == nil || err.Error() != "it has version 2 of the format, and only version 1 is known here" {
		t.Errorf("another version: %v", err)
	}
	if _, _, err := Check(bytes.NewReader(nil)); err == nil || err.Error() != "it is not a saved export" {
		t.Errorf("nothing: %v", err)
	}
}

// TestBlocks: blocks that are missing, twice there, exchanged or of another file.
func TestBlocks(t *testing.T) {
	var pages []uint64
	for n := range uint64(3_000) {
		pages = append(pages, n)
	}
	file := save(t, pages)
	start := headerSize + len("vm1") + 4
	var blocks [][]byte
	for rest := file[start:]; len(rest) > 0; {
		n := frameSize + int(binary.LittleEndian.Uint32(rest[4:]))
		blocks, rest = append(blocks, rest[:n]), rest[n:]
	}
	if len(blocks) < 4 {
		t.Fatalf("only %d blocks", len(blocks))
	}
	join := func(blocks ...[]byte) []byte { return append(bytes.Clone(file[:start]), bytes.Join(blocks, nil)...) }
	if !bytes.Equal(join(blocks...), file) {
		t.Fatal("the file is not what its blocks are")
	}
	other := header()
	other.Content[0]++
	var b bytes.Buffer
	w, err := NewWriter(&b, other)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(); err != nil {
		t.Fatal(err)
	}
	foreign := append(bytes.Clone(b.Bytes()[:start]), file[start:]...)
	last := len(blocks) - 1
	for name, wrong := range map[string][]byte{
		"missing":         join(append(slices.Clone(blocks[:1]), blocks[2:]...)...),
		"missing at last": join(append(slices.Clone(blocks[:last-1]), blocks[last])...),
		"twice":           join(append([][]byte{blocks[0]}, blocks...)...),
		"exchanged":       join(append([][]byte{blocks[1], blocks[0]}, blocks[2:]...)...),
		"of another file": foreign,
	} {
		if _, _, err := Check(bytes.NewReader(wrong)); err == nil {
			t.Errorf("blocks %s: taken for a whole file", name)
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	w, err := NewWriter(io.Discard, header())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Page(5, page(5)); err != nil {
		t.Fatal(err)
	}
	for _, n := range []uint64{5, 4, exportPages} {
		if w.Page(n, page(n)) == nil {
			t.Errorf("page %d after page 5 of %d was taken", n, exportPages)
		}
	}
	if _, err := NewWriter(io.Discard, Header{Name: "x", Size: 5}); err == nil {
		t.Error("a size that is no multiple of a page was taken")
	}
}

const identity = "AGE-SECRET-KEY-184JMZMVQH3E6U0PSL869004Y3U2NYV7R30EU99CSEDNPH02YUVFSZW44VU"

// TestKey: what is encrypted is read with the key only, and not when it was altered.
func TestKey(t *testing.T) {
	file := save(t, []uint64{0, 7, 4711})
	for _, text := range []string{identity, "correct horse battery staple\n"} {
		k, err := ParseKey([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		w, err := k.Encrypt(&b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(file); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if !IsEncrypted(b.Bytes()[:SniffLength]) || IsEncrypted(file[:SniffLength]) || bytes.Contains(b.Bytes(), []byte("vm1")) {
			t.Error("it cannot be told from one that is not encrypted")
		}
		r, err := k.Decrypt(bytes.NewReader(b.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		if h, totals, err := Check(r); err != nil || h != header() || totals.Pages != 3 {
			t.Errorf("%+v, %+v, %v", h, totals, err)
		}
		other, err := ParseKey([]byte("another passphrase"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.Decrypt(bytes.NewReader(b.Bytes())); err == nil {
			t.Error("another key decrypts it")
		}
		if text != identity {
			continue // each try takes a second
		}
		for _, wrong := range [][]byte{b.Bytes()[:b.Len()-1], b.Bytes()[:b.Len()-len(file)/2], append(bytes.Clone(b.Bytes()), 1)} {
			if r, err := k.Decrypt(bytes.NewReader(wrong)); err == nil {
				if _, _, err := Check(r); err == nil {
					t.Error("an altered file is taken for a whole one")
				}
			}
		}
	}
	for _, wrong := range []string{"", "short", "AGE-SECRET-KEY-1NONSENSE", "age1nonsense", "two lines of\na passphrase"} {
		if _, err := ParseKey([]byte(wrong)); err == nil {
			t.Errorf("%q is a key", wrong)
		}
	}
}

// FuzzReader: any bytes end with an error or with a whole file, which a Writer makes
// again.
func FuzzReader(f *testing.F) {
	f.Add(save(f, nil))
	f.Add(save(f, []uint64{0, 1, 9_000}))
	f.Fuzz(func(t *testing.T, file []byte) {
		r, err := NewReader(bytes.NewReader(file))
		if err != nil {
			return
		}
		var again bytes.Buffer
		w, err := NewWriter(&again, r.Header)
		if err != nil {
			t.Fatal(err)
		}
		for {
			n, p, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return
			}
			if err := w.Page(n, p); err != nil {
				t.Fatal(err)
			}
		}
		if totals, err := w.Close(); err != nil || totals != r.Totals() {
			t.Errorf("%+v became %+v: %v", r.Totals(), totals, err)
		}
	})
}
