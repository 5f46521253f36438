package saved

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf8"

	"github.com/tmemd/tmemd/backends"
)

const (
	magic      = "TMEMSAVE"
	version    = 1
	headerSize = 48
	frameSize  = 20
	recordSize = 16
	endSize    = 24
	maxName    = 256

	kindBlock = 1
	kindEnd   = 2

	blockFull  = 1 << 20 // a block that is so long is written
	blockLimit = 2 << 20 // and no longer one is read
)

// castagnoli is constant. The processor computes this polynomial.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Header says what was saved.
type Header struct {
	Name    string
	Size    int64 // bytes
	Content [16]byte
}

// Totals are what a whole file has.
type Totals struct {
	Pages uint64 // with a record
	Bytes uint64 // of their data
	Holes uint64 // pages of the export that read as zeros
}

// FormatError says why something is not a saved export, or not a whole one.
type FormatError string

// Error implements error.
func (e FormatError) Error() string { return string(e) }

func damaged(format string, args ...any) error { return FormatError(fmt.Sprintf(format, args...)) }

func (h Header) check() error {
	switch {
	case len(h.Name) == 0 || len(h.Name) > maxName || !utf8.ValidString(h.Name):
		return damaged("the name of the export makes no sense")
	case h.Size <= 0 || h.Size%backends.PageSize != 0 || uint64(h.Size)/backends.PageSize > backends.MaxPages:
		return damaged("the export's size of %d bytes makes no sense", h.Size)
	}
	return nil
}

// Writer writes a saved export. Close ends it.
type Writer struct {
	to     io.Writer
	pages  uint64 // of the export
	next   uint64 // the lowest page that may come
	bind   uint32 // checksum of the header
	blocks uint64
	block  []byte // frame and records
	totals Totals
}

// NewWriter writes the header.
func NewWriter(to io.Writer, h Header) (*Writer, error) {
	if err := h.check(); err != nil {
		return nil, err
	}
	b := append(make([]byte, 0, headerSize+len(h.Name)+4), magic...)
	b = binary.LittleEndian.AppendUint32(b, version)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(h.Name)))
	b = binary.LittleEndian.AppendUint64(b, uint64(h.Size))
	b = append(b, h.Content[:]...)
	b = binary.LittleEndian.AppendUint64(b, 0)
	b = append(b, h.Name...)
	w := &Writer{to: to, pages: uint64(h.Size) / backends.PageSize, bind: crc32.Checksum(b, castagnoli)}
	w.block = make([]byte, frameSize, frameSize+blockFull+recordSize+backends.PageSize)
	if _, err := to.Write(binary.LittleEndian.AppendUint32(b, w.bind)); err != nil {
		return nil, fmt.Errorf("write the header: %w", err)
	}
	return w, nil
}

// Page adds a page. They come in ascending order.
func (w *Writer) Page(page uint64, p backends.Packed) error {
	if page < w.next || page >= w.pages || len(p.Data) == 0 || len(p.Data) > backends.PageSize {
		return fmt.Errorf("write page %d: out of order, out of range or %d bytes long", page, len(p.Data))
	}
	w.next = page + 1
	w.block = binary.LittleEndian.AppendUint64(w.block, page)
	w.block = append(w.block, byte(p.Encoding), 0)
	w.block = binary.LittleEndian.AppendUint16(w.block, uint16(len(p.Data)))
	w.block = binary.LittleEndian.AppendUint32(w.block, p.Sum)
	w.block = append(w.block, p.Data...)
	w.totals.Pages++
	w.totals.Bytes += uint64(len(p.Data))
	if len(w.block) < frameSize+blockFull {
		return nil
	}
	return w.flush(kindBlock)
}

// flush writes what is in block as a frame of that kind.
func (w *Writer) flush(kind uint32) error {
	frame := w.block[:frameSize]
	binary.LittleEndian.PutUint32(frame, kind)
	binary.LittleEndian.PutUint32(frame[4:], uint32(len(w.block)-frameSize))
	binary.LittleEndian.PutUint64(frame[8:], w.blocks)
	binary.LittleEndian.PutUint32(frame[16:], frameSum(w.bind, frame, w.block[frameSize:]))
	if _, err := w.to.Write(w.block); err != nil {
		return fmt.Errorf("write block %d: %w", w.blocks, err)
	}
	w.blocks++
	w.block = w.block[:frameSize]
	return nil
}

func frameSum(bind uint32, frame, records []byte) uint32 {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], bind)
	sum := crc32.Update(crc32.Checksum(b[:], castagnoli), castagnoli, frame[:16])
	return crc32.Update(sum, castagnoli, records)
}

// Close writes what is left, and the end. Without it the file is not whole.
func (w *Writer) Close() (Totals, error) {
	if len(w.block) > frameSize {
		if err := w.flush(kindBlock); err != nil {
			return w.totals, err
		}
	}
	w.totals.Holes = w.pages - w.totals.Pages
	w.block = binary.LittleEndian.AppendUint64(w.block, w.totals.Pages)
	w.block = binary.LittleEndian.AppendUint64(w.block, w.totals.Bytes)
	w.block = binary.LittleEndian.AppendUint64(w.block, w.totals.Holes)
	return w.totals, w.flush(kindEnd)
}

// Reader reads a saved export.
type Reader struct {
	Header Header

	from   io.Reader
	pages  uint64
	next   uint64
	bind   uint32
	blocks uint64
	block  []byte // records of a block
	left   []byte // those that were not handed out yet
	totals Totals
	err    error
}

// NewReader reads the header.
func NewReader(from io.Reader) (*Reader, error) {
	r := &Reader{from: from}
	b := make([]byte, headerSize, headerSize+maxName)
	if n, err := io.ReadFull(from, b); err != nil {
		if n < len(magic) || string(b[:len(magic)]) != magic {
			return nil, shortAs(err, "it is not a saved export")
		}
		return nil, shortAs(err, "it ends within its header")
	}
	length := binary.LittleEndian.Uint32(b[12:])
	switch {
	case string(b[:8]) != magic:
		return nil, damaged("it is not a saved export")
	case binary.LittleEndian.Uint32(b[8:]) != version:
		return nil, damaged("it has version %d of the format, and only version %d is known here", binary.LittleEndian.Uint32(b[8:]), version)
	case length == 0 || length > maxName:
		return nil, damaged("its header is damaged: a name of %d bytes", length)
	}
	b = b[:headerSize+length]
	var sum [4]byte
	if _, err := io.ReadFull(from, b[headerSize:]); err != nil {
		return nil, shortAs(err, "it ends within its header")
	}
	if _, err := io.ReadFull(from, sum[:]); err != nil {
		return nil, shortAs(err, "it ends within its header")
	}
	r.bind = crc32.Checksum(b, castagnoli)
	if binary.LittleEndian.Uint32(sum[:]) != r.bind || binary.LittleEndian.Uint64(b[40:]) != 0 {
		return nil, damaged("its header is damaged: the checksum differs")
	}
	r.Header = Header{
		Name: string(b[headerSize:]), Size: int64(binary.LittleEndian.Uint64(b[16:])), Content: [16]byte(b[24:40]),
	}
	if err := r.Header.check(); err != nil {
		return nil, err
	}
	r.pages = uint64(r.Header.Size) / backends.PageSize
	return r, nil
}

// shortAs says what the end of a stream means; other errors of it are passed on.
func shortAs(err error, meaning string) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return FormatError(meaning)
	}
	return fmt.Errorf("read: %w", err)
}

// Next returns the next page, whose data is valid until Next is called again. After the
// last one the error is io.EOF, and all is well.
func (r *Reader) Next() (page uint64, p backends.Packed, err error) {
	for r.err == nil && len(r.left) == 0 {
		r.err = r.frame()
	}
	if r.err != nil {
		return 0, p, r.err
	}
	if page, p, r.err = r.record(); r.err != nil {
		return 0, backends.Packed{}, r.err
	}
	return page, p, nil
}

// frame reads a block, or the end.
func (r *Reader) frame() error {
	var frame [frameSize]byte
	if _, err := io.ReadFull(r.from, frame[:]); err != nil {
		return shortAs(err, fmt.Sprintf("it ends after block %d, without its end: it is not whole", r.blocks))
	}
	kind, length := binary.LittleEndian.Uint32(frame[:]), binary.LittleEndian.Uint32(frame[4:])
	switch {
	case kind == kindBlock && length > 0 && length <= blockLimit:
	case kind == kindEnd && length == endSize:
	default:
		return damaged("block %d is damaged: kind %d, %d bytes", r.blocks, kind, length)
	}
	if cap(r.block) < int(length) {
		r.block = make([]byte, length)
	}
	r.block = r.block[:length]
	if _, err := io.ReadFull(r.from, r.block); err != nil {
		return shortAs(err, fmt.Sprintf("it ends within block %d: it is not whole", r.blocks))
	}
	if frameSum(r.bind, frame[:], r.block) != binary.LittleEndian.Uint32(frame[16:]) {
		return damaged("block %d is damaged: the checksum differs", r.blocks)
	}
	if binary.LittleEndian.Uint64(frame[8:]) != r.blocks {
		return damaged("block %d is missing: number %d comes instead", r.blocks, binary.LittleEndian.Uint64(frame[8:]))
	}
	if kind == kindEnd {
		return r.end()
	}
	r.blocks++
	r.left = r.block
	return nil
}

func (r *Reader) end() error {
	r.totals.Holes = r.pages - r.totals.Pages
	told := Totals{binary.LittleEndian.Uint64(r.block), binary.LittleEndian.Uint64(r.block[8:]), binary.LittleEndian.Uint64(r.block[16:])}
	if told != r.totals {
		return damaged("it has %d pages of %d bytes, and its end says %d of %d", r.totals.Pages, r.totals.Bytes, told.Pages, told.Bytes)
	}
	var more [1]byte
	switch _, err := io.ReadFull(r.from, more[:]); {
	case err == nil:
		return damaged("something comes after its end")
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("read: %w", err)
	}
	return io.EOF
}

func (r *Reader) record() (page uint64, p backends.Packed, err error) {
	if len(r.left) < recordSize {
		return 0, p, damaged("block %d is damaged: a record is cut short", r.blocks-1)
	}
	page = binary.LittleEndian.Uint64(r.left)
	p = backends.Packed{Encoding: backends.Encoding(r.left[8]), Sum: binary.LittleEndian.Uint32(r.left[12:])}
	length := int(binary.LittleEndian.Uint16(r.left[10:]))
	switch {
	case r.left[9] != 0 || p.Encoding == 0 || p.Encoding >= backends.Encodings:
		return 0, p, damaged("page %d has encoding %d, which is not known", page, p.Encoding)
	case length == 0 || length > backends.PageSize || length > len(r.left)-recordSize:
		return 0, p, damaged("page %d is damaged: %d bytes", page, length)
	case page < r.next || page >= r.pages:
		return 0, p, damaged("page %d is out of order, or beyond the export's end", page)
	}
	p.Data = r.left[recordSize:][:length]
	r.left = r.left[recordSize+length:]
	r.next = page + 1
	r.totals.Pages++
	r.totals.Bytes += uint64(length)
	return page, p, nil
}

// Totals are what was read so far.
func (r *Reader) Totals() Totals { return r.totals }

// Check reads all of a saved export.
func Check(from io.Reader) (Header, Totals, error) {
	r, err := NewReader(from)
	if err != nil {
		return Header{}, Totals{}, err
	}
	for {
		if _, _, err := r.Next(); errors.Is(err, io.EOF) {
			return r.Header, r.totals, nil
		} else if err != nil {
			return r.Header, r.totals, err
		}
	}
}
