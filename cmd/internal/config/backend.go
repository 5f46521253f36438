package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/frontswap"
)

const minBackendSize = 1 << 20

func (p *parser) backends() {
	entries := p.file.Backend
	switch {
	case p.flags.given["backend"]:
		p.from("backend[0].kind", "backend")
		if p.flags.backend == noBackend {
			return
		}
		entries = []fileBackend{{Kind: &p.flags.backend}}
	case entries == nil:
		kind := DefaultBackend
		entries = []fileBackend{{Kind: &kind}}
	}
	if len(entries) > frontswap.MaxBackends {
		p.from("backend", "")
		p.blame("backend", fmt.Sprintf("backend[%d]", frontswap.MaxBackends))
		p.reject("backend", "remove some", "%d backends, but at most %d can be loaded at a time", len(entries), frontswap.MaxBackends)
	}
	for i, entry := range entries {
		p.backend(fmt.Sprintf("backend[%d]", i), entry)
	}
}

func (p *parser) backend(key string, entry fileBackend) {
	p.from(key+".kind", "backend")
	p.blame(key+".kind", key)
	choice := strings.Join(p.host.Kinds, " or ")
	if entry.Kind == nil {
		p.reject(key+".kind", "write kind = \""+choice+"\"", "no kind is given")
		return
	}
	b := Backend{Kind: *entry.Kind, Name: *entry.Kind}
	if !slices.Contains(p.host.Kinds, b.Kind) {
		p.reject(key+".kind", "use "+choice, "there is no backend of the kind %q", b.Kind)
		return
	}
	p.from(key+".name", "")
	if entry.Name != nil {
		b.Name = *entry.Name
	}
	if wrong := CheckBackendName(b.Name); wrong != nil {
		p.reject(key+".name", wrong.Hint, "%v", wrong)
	}
	for _, other := range p.config.Backends {
		if other.Name == b.Name {
			p.blame(key+".name", key)
			p.reject(key+".name", "give each [[backend]] a name of its own", "there is a backend %s already", b.Name)
		}
	}
	p.from(key+".size", "")
	text := DefaultBackendSize
	if entry.Size != "" {
		text = string(entry.Size)
	}
	var err error
	if b.Size, err = BackendSize(text, p.host.RAM); err != nil {
		p.reject(key+".size", SizeSyntax, "%v", err)
	}
	p.zcache(key, entry, &b)
	p.config.Backends = append(p.config.Backends, b)
}

// zcache reads the settings of a zcache. max_pool is what any backend calls its
// size.
func (p *parser) zcache(key string, entry fileBackend, b *Backend) {
	b.Zcache = DefaultZcache()
	b.Zcache.Limit = b.Size
	errors := len(p.errs)
	for _, s := range entry.settings() {
		at := key + "." + s.Key
		p.from(at, "")
		if s.Key == "max_pool" && entry.Size != "" {
			p.reject(at, "remove one of them", "size says the same")
		}
		if wrong := SetZcache(&b.Zcache, s, p.host.RAM); wrong != nil {
			p.reject(at, wrong.Hint, "%s", strings.TrimPrefix(wrong.Problem, s.Key+": "))
		}
	}
	if b.Size = b.Zcache.Limit; len(p.errs) > errors {
		return
	}
	if wrong := CheckZcache(b.Zcache); wrong != nil {
		p.from(key+".min_pool", "")
		p.reject(key+".min_pool", wrong.Hint, "%s", strings.TrimPrefix(wrong.Problem, "min_pool: "))
	}
}

// BackendSize is the memory in bytes that a backend may take, on a machine with
// that much RAM.
func BackendSize(text string, ram int64) (int64, error) {
	parsed, err := ParseSize(text)
	if err != nil {
		return 0, err
	}
	size := parsed.Of(ram)
	if size < minBackendSize {
		return 0, fmt.Errorf("%q is too small for a backend, which needs 1 MiB or more", text)
	}
	if size > ram {
		return 0, fmt.Errorf("%q is more than the RAM of this machine, %s", text, cli.Bytes(uint64(ram)))
	}
	return size, nil
}
