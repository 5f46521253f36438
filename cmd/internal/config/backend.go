package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tmemd/tmemd/backends/ramster"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/frontswap"
	"github.com/tmemd/tmemd/nbd"
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
		p.reject(key+".kind", `write kind = "`+strings.Join(p.host.Kinds, `" or kind = "`)+`"`, "no kind is given")
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
	p.settings(key, entry, &b)
	p.config.Backends = append(p.config.Backends, b)
}

// settings reads the settings that the backend's kind has.
func (p *parser) settings(key string, entry fileBackend, b *Backend) {
	kind := settingsOf(b.Kind)
	kind.begin(b)
	before := len(p.errs)
	set := func(at string, s Setting) {
		p.from(at, "")
		if wrong := kind.set(b, s, p.host.RAM); wrong != nil {
			p.reject(at, wrong.Hint, "%s", strings.TrimPrefix(wrong.Problem, s.Key+": "))
		}
	}
	size := Setting{kind.sizeKey(), defaultWord}
	if entry.Size != "" {
		size.Value = string(entry.Size)
	}
	set(key+".size", size)
	for _, s := range entry.settings() {
		at := key + "." + s.at
		if s.Key == size.Key && entry.Size != "" {
			p.from(at, "")
			p.reject(at, "remove one of them", "size says the same")
			continue
		}
		set(at, s.Setting)
	}
	if len(p.errs) > before {
		return
	}
	if wrong := kind.finish(b); wrong != nil {
		setting, problem, _ := strings.Cut(wrong.Problem, ": ")
		at := key + "." + setting
		p.from(at, "")
		p.reject(at, wrong.Hint, "%s", problem)
	}
	if b.Kind == ramster.Kind {
		p.donorsOf(key, entry, b)
	}
}

// donorsOf checks that donors may be reached as the file says.
func (p *parser) donorsOf(key string, entry fileBackend, b *Backend) {
	t := p.config.Ramster
	for i, text := range entry.Donors {
		var list []ramster.Donor
		wrong := addDonors(&list, text)
		if wrong == nil {
			wrong = t.CheckDonors(list)
		}
		if wrong != nil {
			p.reject(key+".donors"+index(i), wrong.Hint, "%s", wrong.Problem)
		}
	}
	if wrong := b.Ramster.checkSources(t); wrong != nil {
		at, problem, _ := strings.Cut(wrong.Problem, ": ")
		p.reject(key+"."+at, wrong.Hint, "%s", problem)
	}
}

// checkSources says why no donors can be had of a file or DNS. The problem begins with
// the key.
func (c Ramster) checkSources(t PeerTLS) *cli.Error {
	if c.DonorsFile != "" {
		list, wrong := ReadDonors(c.DonorsFile)
		if wrong == nil {
			wrong = t.CheckDonors(list)
		}
		if wrong != nil {
			return cli.Misuse(wrong.Hint, "donors_file: %s", wrong.Problem)
		}
	}
	if c.DonorsService != "" && t.Mode == nbd.TLSOff {
		return cli.Misuse("set certificate, key and ca in [ramster.tls]", "donors_srv: donors that DNS names need TLS")
	}
	return nil
}

// NewBackend makes a backend of what a request says, which leaves out what is to be the
// default.
func NewBackend(kind, name, size string, settings []Setting, t PeerTLS, ram int64) (Backend, *cli.Error) {
	b := Backend{Kind: kind, Name: name}
	known := settingsOf(kind)
	known.begin(&b)
	if size != "" {
		settings = append([]Setting{{known.sizeKey(), size}}, settings...)
	} else if !slices.ContainsFunc(settings, func(s Setting) bool { return s.Key == known.sizeKey() }) {
		settings = append([]Setting{{known.sizeKey(), defaultWord}}, settings...)
	}
	for i, s := range settings {
		if wrong := once(settings[:i], s); wrong != nil {
			return b, wrong
		}
		if wrong := known.set(&b, s, ram); wrong != nil {
			if i == 0 && size != "" {
				wrong.Problem = "size" + strings.TrimPrefix(wrong.Problem, s.Key)
			}
			return b, wrong
		}
	}
	if wrong := known.finish(&b); wrong != nil {
		return b, wrong
	}
	if kind != ramster.Kind {
		return b, nil
	}
	if wrong := t.CheckDonors(b.Ramster.Donors); wrong != nil {
		return b, cli.Misuse(wrong.Hint, "donors: %s", wrong.Problem)
	}
	return b, b.Ramster.checkSources(t)
}

func index(i int) string { return "[" + strconv.Itoa(i) + "]" }

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
