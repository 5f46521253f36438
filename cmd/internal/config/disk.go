package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/tmemd/tmemd/cleancache"
)

// ModeSyntax is the cure for a mode of a disk that there is not.
const ModeSyntax = "write inclusive (a page that was read stays in the cache) or exclusive (it leaves: the client has it now)"

const uuidCure = "write 32 hexadecimal digits, such as uuidgen makes"

func (p *parser) bases() {
	for i, entry := range p.file.Base {
		p.base(fmt.Sprintf("base[%d]", i), entry)
	}
}

func (p *parser) base(key string, entry fileBase) {
	b := Base{Name: p.diskName(key, "base.name", entry.Name)}
	b.Path = p.diskPath(key, "base.path", entry.Path)
	p.from(key+".uuid", "")
	p.blame(key+".uuid", key)
	if entry.UUID == nil {
		p.reject(key+".uuid", uuidCure, "no UUID is given: it says which overlays and clones have this content")
	} else {
		b.UUID = p.uuid(key+".uuid", *entry.UUID)
	}
	for _, other := range p.config.Bases {
		if entry.UUID != nil && other.UUID == b.UUID {
			p.reject(key+".uuid", "give each [[base]] a UUID of its own", "it is that of the base %s already", other.Name)
		}
	}
	for _, e := range p.config.Exports {
		p.notExport(key+".path", b.Path, e)
	}
	p.config.Bases = append(p.config.Bases, b)
}

func (p *parser) uuid(key, text string) cleancache.UUID {
	id, err := cleancache.ParseUUID(text)
	if err != nil {
		p.reject(key, uuidCure, "%v", err)
	}
	return id
}

// diskName reads the name of a disk or base, which all exports, disks and bases must
// differ in.
func (p *parser) diskName(key, example string, name *string) string {
	at := key + ".name"
	p.from(at, "")
	p.blame(at, key)
	switch {
	case name == nil:
		p.reject(at, "write "+exampleOf(example), "no name is given")
		return ""
	case !nameSyntax.MatchString(*name):
		p.reject(at, nameCure, "%q is not a name", *name)
	}
	const cure = "give it a name of its own"
	for _, e := range p.config.Exports {
		if e.Name == *name {
			p.reject(at, cure, "there is an export %s already", *name)
		}
	}
	for _, d := range p.config.Disks {
		if d.Name == *name {
			p.reject(at, cure, "there is a disk %s already", *name)
		}
	}
	for _, b := range p.config.Bases {
		if b.Name == *name {
			p.reject(at, cure, "there is a base %s already", *name)
		}
	}
	return *name
}

func (p *parser) disks() {
	for i, entry := range p.file.Disk {
		p.disk(fmt.Sprintf("disk[%d]", i), entry)
	}
}

// noDisks refuses disks in the file of a tmemd that only lends memory.
func (p *parser) noDisks() {
	const cure = "leave it out, or run tmemd without the word donor: it serves disks, and lends memory too if there is a [donor]"
	refuse := func(table string, count int) {
		for i := range count {
			key := fmt.Sprintf("%s[%d]", table, i)
			p.from(key, "")
			p.reject(key, cure, "tmemd donor serves no disks")
		}
	}
	refuse("base", len(p.file.Base))
	refuse("disk", len(p.file.Disk))
}

func (p *parser) disk(key string, entry fileDisk) {
	d := Disk{ReadOnly: entry.ReadOnly, Name: p.diskName(key, "disk.name", entry.Name)}
	if entry.Base != nil {
		d.Base = p.diskBase(key+".base", *entry.Base, entry)
		d.Path = p.overlayPath(key, entry.Path)
	} else {
		d.Path = p.diskPath(key, "disk.path", entry.Path)
	}
	p.distinct(key+".path", d)
	p.from(key+".shared", "")
	if entry.Shared != nil {
		d.Shared = p.shared(key+".shared", *entry.Shared, d)
	}
	p.from(key+".mode", "")
	if entry.Mode != nil {
		mode, err := cleancache.ParseMode(*entry.Mode)
		if err != nil {
			p.reject(key+".mode", ModeSyntax, "%q is no mode", *entry.Mode)
		}
		d.Mode = mode
	}
	d.Allow = p.access(key+".allow", entry.Allow)
	p.config.Disks = append(p.config.Disks, d)
}

func (p *parser) diskBase(key, name string, entry fileDisk) string {
	p.from(key, "")
	if !slices.ContainsFunc(p.config.Bases, func(b Base) bool { return b.Name == name }) {
		p.reject(key, "name one of the [[base]] entries", "there is no base %s", name)
	}
	if entry.ReadOnly {
		p.reject(key, "leave one of them out", "an overlay that is read_only has nothing of its own")
	}
	return name
}

// shared reads the name that a disk shares pages under. Nobody may share without
// being told so by a [[base]]: whoever has other content than he says gives it to others.
func (p *parser) shared(key, text string, d Disk) *cleancache.UUID {
	id := p.uuid(key, text)
	switch {
	case !d.ReadOnly:
		p.reject(key, "make the disk read_only", "a disk that is written shares its pages with nobody")
	case !slices.ContainsFunc(p.config.Bases, func(b Base) bool { return b.UUID == id }):
		p.reject(key, "name the image as a [[base]] with this uuid", "nobody may share pages under this UUID")
	}
	return &id
}

// diskPath reads the path of a disk, which has to be there: nothing is ever made of
// what is on a disk.
func (p *parser) diskPath(table, example string, entry *string) string {
	path, ok := p.absolute(table, example, entry)
	if !ok {
		return path
	}
	st, err := os.Stat(path)
	switch {
	case err != nil:
		p.reject(table+".path", "give it a file or a block device with content, such as a file system", "%v", err)
	case !st.Mode().IsRegular() && st.Mode().Type() != os.ModeDevice:
		p.reject(table+".path", "give it a file or a block device", "%s is neither a file nor a block device", path)
	}
	return path
}

// overlayPath reads the path of an overlay, which is made if it is not there.
func (p *parser) overlayPath(table string, entry *string) string {
	path, ok := p.absolute(table, "disk.path", entry)
	if !ok {
		return path
	}
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if filepath.Dir(path) != p.config.StateDir {
			p.needFolder(table+".path", path)
		}
	case err != nil:
		p.reject(table+".path", "give it a path that you may use", "%v", err)
	case !st.Mode().IsRegular():
		p.reject(table+".path", "give it a file", "an overlay is kept in a file, which %s is not", path)
	}
	return path
}

func (p *parser) absolute(table, example string, entry *string) (path string, ok bool) {
	key := table + ".path"
	p.from(key, "")
	p.blame(key, table)
	if entry == nil {
		p.reject(key, "write "+exampleOf(example), "no file or block device is given")
		return "", false
	}
	path = filepath.Clean(*entry)
	if !filepath.IsAbs(path) {
		p.reject(key, "write the whole path, from the / on", "%q is not an absolute path", *entry)
		return path, false
	}
	return path, true
}

// distinct holds that nothing is written by two, or by one and read by another.
func (p *parser) distinct(key string, d Disk) {
	if d.Path == "" {
		return
	}
	for _, e := range p.config.Exports {
		p.notExport(key, d.Path, e)
	}
	for _, b := range p.config.Bases {
		if !d.ReadOnly && sameFile(b.Path, d.Path) {
			p.reject(key, "make the disk read_only", "%s is the base %s already, which is not to be written", d.Path, b.Name)
		}
	}
	for _, other := range p.config.Disks {
		if sameFile(other.Path, d.Path) && !(other.ReadOnly && d.ReadOnly) {
			p.reject(key, "make both read_only, or serve it once", "%s is the disk %s already, and one of them is written", d.Path, other.Name)
		}
	}
}

func (p *parser) notExport(key, path string, e Export) {
	if path != "" && sameFile(e.Storage, path) {
		p.reject(key, "give each of them storage of its own", "%s is the storage of export %s already", path, e.Name)
	}
}
