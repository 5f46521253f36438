package bench

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"

	"github.com/tmemd/tmemd/backends/pagemap"
	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// contentPages is how many different pages there are at most: 64 MiB.
const contentPages = 16384

// mixPages is how many the mixture has.
const mixPages = 2048

// neighbours is how many pages are taken together.
const neighbours = 16

// Content is what is written: pages, which do not change. Any goroutine may use it.
type Content struct {
	data  []byte
	rests []uint32 // checksum of each page behind its stamp
}

// newContent takes over data, of whole pages.
func newContent(data []byte) *Content {
	c := &Content{data: data}
	for i := range c.Pages() {
		c.rests = append(c.rests, crc32.Checksum(c.Page(i)[stampSize:], castagnoli))
	}
	return c
}

// Pages is how many there are.
func (c *Content) Pages() int { return len(c.data) / pageSize }

// Page returns one of them.
func (c *Content) Page(i int) []byte { return c.data[i*pageSize : (i+1)*pageSize : (i+1)*pageSize] }

const contentSyntax = "write mix, random, zeros, file:PATH or pid:NUMBER"

// LoadContent makes what --content asks for. The seed is that of everything random.
func LoadContent(text string, seed uint64) (*Content, error) {
	kind, rest, _ := strings.Cut(text, ":")
	switch {
	case text == "mix":
		return newContent(mixture(seed)), nil
	case text == "random":
		return newContent(noise(rand.New(rand.NewPCG(seed, 2)), make([]byte, mixPages*pageSize))), nil
	case text == "zeros":
		return newContent(make([]byte, pageSize)), nil
	case kind == "file" && rest != "":
		return fileContent(rest)
	case kind == "pid":
		pid, err := strconv.Atoi(rest)
		if err != nil || pid < 1 {
			return nil, cli.Misuse("write pid:NUMBER", "%q is not the number of a process", rest)
		}
		return processContent(pid, seed)
	}
	return nil, cli.Misuse(contentSyntax, "there is no content %q", text)
}

// fileContent reads pages of a file, in runs that are spread over it if it is large.
func fileContent(path string) (*Content, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, cli.Failure("give --content a file that you may read", "%v", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	pages := info.Size() / pageSize
	if pages == 0 {
		return nil, cli.Failure("give --content a larger file", "%s has no whole page of %d bytes", path, pageSize)
	}
	runs := max(1, min(pages, contentPages)/neighbours)
	length := min(pages, neighbours) * pageSize
	data := make([]byte, 0, runs*length)
	for run := range runs {
		at := run * (pages * pageSize / runs) / pageSize * pageSize
		n, err := f.ReadAt(data[len(data):int64(len(data))+length], at)
		data = data[:len(data)+n/pageSize*pageSize]
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read content: %w", err)
		}
	}
	if len(data) == 0 {
		return nil, cli.Failure("give --content a file that does not change", "%s has become shorter", path)
	}
	return newContent(data), nil
}

// processContent copies pages of a process that the kernel could swap.
func processContent(pid int, seed uint64) (*Content, error) {
	p, err := pagemap.Open(pid)
	if err != nil {
		return nil, cli.Failure("name a process of yours that runs, or be root", "read the memory of process %d: %v", pid, err)
	}
	defer p.Close()
	runs, err := p.Runs(neighbours)
	if err != nil {
		return nil, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	random := rand.New(rand.NewPCG(seed, 3))
	random.Shuffle(len(runs), func(i, j int) { runs[i], runs[j] = runs[j], runs[i] })
	var data []byte
	for _, run := range runs {
		if len(data) >= contentPages*pageSize {
			break
		}
		pages := make([]byte, run.Pages*pageSize)
		if err := p.Read(run.Address, pages); err == nil { // else it is gone by now
			data = append(data, pages...)
		}
	}
	if len(data) == 0 {
		return nil, cli.Failure("name another process", "process %d has no memory that could be swapped", pid)
	}
	return newContent(data), nil
}

// mixture makes pages of what memory is made of: of 16, five of records with pointers
// and small numbers, three of text, three of machine code, three that are partly used,
// one of base64, partly used too, and one of random bytes.
func mixture(seed uint64) []byte {
	random := rand.New(rand.NewPCG(seed, 1))
	code := program()
	data := make([]byte, mixPages*pageSize)
	for i := range mixPages {
		page := data[i*pageSize : (i+1)*pageSize]
		switch n := i % 16; {
		case n < 5:
			records(random, page)
		case n < 8:
			text(random, page)
		case n < 11 && len(code) >= pageSize:
			at := random.IntN(len(code)/pageSize) * pageSize
			copy(page, code[at:])
		case n < 14:
			records(random, page[:random.IntN(pageSize/8)*8])
		case n < 15:
			encoded := noise(random, page[:pageSize*3/4])
			for j := range encoded {
				page[j] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[page[j]&63]
			}
		default:
			noise(random, page)
		}
	}
	return data
}

// program is some of this program's own code, or nothing if it cannot be read.
func program() []byte {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil
	}
	defer f.Close()
	code := make([]byte, 4<<20)
	n, err := f.ReadAt(code, 64<<10)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil
	}
	return code[:n]
}

func records(random *rand.Rand, page []byte) {
	heap := 0x7f0000000000 | uint64(random.Uint32())<<12
	for at := 0; at+32 <= len(page); at += 32 {
		for i, word := range [4]uint64{heap + uint64(random.IntN(1<<16))*16, uint64(random.IntN(64)), uint64(random.IntN(3)), 0} {
			for b := range 8 {
				page[at+8*i+b] = byte(word >> (8 * b))
			}
		}
	}
}

var words = strings.Fields("time level info warn error request response handler started finished user session page bytes from to the of in a is not was with status 200 404 500 GET POST /api/v1/items /index.html connection closed timeout retry")

func text(random *rand.Rand, page []byte) {
	for at := 0; at < len(page); {
		at += copy(page[at:], words[random.IntN(len(words))])
		if random.IntN(8) == 0 {
			at += copy(page[at:], strconv.FormatUint(uint64(random.Uint32()), 10))
		}
		at += copy(page[at:], " ")
	}
}

func noise(random *rand.Rand, page []byte) []byte {
	for i := range page {
		page[i] = byte(random.Uint32())
	}
	return page
}
