package packed_test

import (
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/packed"
)

// FuzzDecode: any bytes give the page with the checksum, or an error (P1, P2).
func FuzzDecode(f *testing.F) {
	page := backendtest.Page(backendtest.Structured, 1)
	f.Add(uint8(backends.EncodingRaw), packed.Sum(page), page)
	f.Add(uint8(backends.EncodingLZ4), uint32(0), []byte{0x1f, 0, 1, 0, 255, 255, 255, 255})
	f.Add(uint8(backends.EncodingZstd), uint32(0), []byte{0x28, 0xb5, 0x2f, 0xfd, 0x60, 0, 0x10})
	f.Add(uint8(backends.EncodingFilled), uint32(0), []byte{1, 2, 3, 4})
	d, err := packed.NewDecoder()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, encoding uint8, sum uint32, data []byte) {
		const guard = 64
		room := make([]byte, guard+backends.PageSize+guard)
		page := room[guard:][:backends.PageSize]
		err := d.Decode(backends.Packed{Encoding: backends.Encoding(encoding), Sum: sum, Data: data}, page)
		if err == nil && packed.Sum(page) != sum {
			t.Error("a page with another checksum was decoded")
		}
		for i := range guard {
			if room[i] != 0 || room[len(room)-1-i] != 0 {
				t.Fatal("written outside the page")
			}
		}
	})
}
