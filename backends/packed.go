package backends

// Encoding is how the data of a [Packed] page is encoded. The numbers are the format
// of saved exports: they stay what they are.
type Encoding uint8

// The encodings.
const (
	EncodingRaw    Encoding = 1 // the page as it is
	EncodingLZ4    Encoding = 2 // one lz4 block
	EncodingZstd   Encoding = 3 // one zstd frame
	EncodingFilled Encoding = 4 // four bytes, little-endian, that the page is filled with
	Encodings               = 5 // above all of them
)

// String names the encoding.
func (e Encoding) String() string {
	switch e {
	case EncodingRaw:
		return "raw"
	case EncodingLZ4:
		return "lz4"
	case EncodingZstd:
		return "zstd"
	case EncodingFilled:
		return "filled"
	}
	return "unknown"
}

// Packed is a page in the form in which a backend keeps it, to be moved elsewhere
// without being compressed anew. Package packed makes pages of it.
type Packed struct {
	Encoding Encoding
	Sum      uint32 // CRC-32C of the page itself
	Data     []byte
}
