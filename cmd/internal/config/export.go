package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/tier"
)

const (
	minExportSize = 1 << 20
	maxExportSize = backends.MaxPages * backends.PageSize
)

// WritethroughSyntax is the cure for a mode that there is not.
const WritethroughSyntax = "write off, async (pages are copied to storage soon after they are written) or sync (before the write is answered)"

func (p *parser) exports() {
	entries := p.file.Export
	// Who names disks, or clients and templates for exports to come, does not want one more.
	if len(entries) == 0 && len(p.file.Disk)+len(p.file.Client)+len(p.file.Template) == 0 {
		entries = []fileExport{{}}
	}
	if len(entries) > 1 && p.flags.given["size"] {
		p.errs = append(p.errs, cli.Misuse("set size below each [[export]] instead",
			"--size: which of the %d exports in %s is meant?", len(entries), p.positions.path))
	}
	for i, entry := range entries {
		p.export(fmt.Sprintf("export[%d]", i), entry)
	}
}

func (p *parser) export(key string, entry fileExport) {
	e := Export{Name: DefaultExport}
	p.from(key+".name", "")
	if entry.Name != nil {
		e.Name = *entry.Name
	}
	if !nameSyntax.MatchString(e.Name) {
		p.reject(key+".name", nameCure, "%q is not a name", e.Name)
	}
	for _, other := range p.config.Exports {
		if other.Name == e.Name {
			p.blame(key+".name", key)
			p.reject(key+".name", "give each [[export]] a name of its own", "there is an export %s already", e.Name)
		}
	}
	e.Storage = p.exportStorage(key+".storage", entry, e.Name)
	e.Size, e.SizeChosen = p.exportSize(key+".size", entry.Size, e.Storage)
	p.from(key+".writethrough", "")
	if entry.Writethrough != nil {
		mode, err := tier.ParseWritethrough(*entry.Writethrough)
		if err != nil {
			p.reject(key+".writethrough", WritethroughSyntax, "%q is no mode", *entry.Writethrough)
		}
		e.Writethrough = mode
	}
	e.Allow = p.access(key+".allow", entry.Allow)
	e.Client = p.clientOf(key+".client", entry.Client)
	p.config.Exports = append(p.config.Exports, e)
}

func (p *parser) exportSize(key string, entry literal, storage string) (size int64, chosen bool) {
	p.from(key, "size")
	text := DefaultExportSize
	switch {
	case p.flags.given["size"]:
		text, chosen = p.flags.size, true
	case entry != "":
		text, chosen = string(entry), true
	default:
		// Storage that is there decides: a device is used as a whole, and a file
		// holds an export already.
		if size := existingSize(storage); size >= minExportSize && size <= maxExportSize {
			return size, false
		}
	}
	size, wrong := ExportSize(text, p.host.RAM)
	if wrong != nil {
		p.reject(key, wrong.Hint, "%s", wrong.Problem)
	}
	return size, chosen
}

// ExportSize is the size in bytes of an export, on a machine with that much RAM.
func ExportSize(text string, ram int64) (int64, *cli.Error) {
	parsed, err := ParseSize(text)
	if err != nil {
		return 0, cli.Misuse(SizeSyntax, "%v", err)
	}
	size := parsed.Of(ram)
	switch {
	case size < minExportSize:
		return 0, cli.Misuse("make it 1MiB or more", "%q is too small for an export", text)
	case size > maxExportSize:
		return 0, cli.Misuse("make it "+cli.Bytes(maxExportSize)+" or less", "%q is too large for an export", text)
	case size%backends.PageSize != 0:
		return 0, cli.Misuse(fmt.Sprintf("the nearest below is %d", size/backends.PageSize*backends.PageSize),
			"%q is not a multiple of the page size, %d", text, backends.PageSize)
	}
	return size, nil
}

func (p *parser) exportStorage(key string, entry fileExport, name string) string {
	p.from(key, "")
	path := filepath.Join(p.config.StateDir, name+".img")
	if entry.Storage != nil {
		path = filepath.Clean(*entry.Storage)
		if !filepath.IsAbs(path) {
			p.reject(key, "write the whole path, from the / on", "%q is not an absolute path", *entry.Storage)
			return path
		}
	}
	for _, other := range p.config.Exports {
		if other.Name != name && sameFile(other.Storage, path) {
			p.reject(key, "give each export storage of its own", "%s is the storage of export %s already", path, other.Name)
		}
	}
	if entry.Storage == nil {
		return path // in a folder that has been looked at
	}
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if filepath.Dir(path) != p.config.StateDir {
			p.needFolder(key, path)
		}
	case err != nil:
		p.reject(key, "give it a path that you may use", "%v", err)
	case !st.Mode().IsRegular() && st.Mode().Type() != os.ModeDevice:
		p.reject(key, "give it a file or a block device", "%s is neither a file nor a block device", path)
	}
	return path
}

// sameFile says whether two paths are, or lead to, the same file.
func sameFile(a, b string) bool {
	if a == b {
		return true
	}
	first, err := os.Stat(a)
	if err != nil {
		return false
	}
	second, err := os.Stat(b)
	return err == nil && os.SameFile(first, second)
}

// existingSize is the length in bytes of a file or block device, rounded down to
// whole pages, or 0 if it cannot be found out.
func existingSize(path string) int64 {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0
	}
	return end / backends.PageSize * backends.PageSize
}
