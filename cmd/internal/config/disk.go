package config

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/tmemd/tmemd/cleancache"
)

// ModeSyntax is the cure for a mode of a disk that there is not.
const ModeSyntax = "write inclusive (a page that was read stays in the cache) or exclusive (it leaves: the client has it now)"

func (p *parser) disks() {
	for i, entry := range p.file.Disk {
		p.disk(fmt.Sprintf("disk[%d]", i), entry)
	}
}

func (p *parser) disk(key string, entry fileDisk) {
	d := Disk{ReadOnly: entry.ReadOnly}
	p.from(key+".name", "")
	p.blame(key+".name", key)
	if entry.Name == nil {
		p.reject(key+".name", "write "+exampleOf("disk.name"), "no name is given")
	} else if d.Name = *entry.Name; !nameSyntax.MatchString(d.Name) {
		p.reject(key+".name", nameCure, "%q is not a name", d.Name)
	}
	for _, e := range p.config.Exports {
		if e.Name == d.Name {
			p.reject(key+".name", "give it a name of its own", "there is an export %s already", d.Name)
		}
	}
	for _, other := range p.config.Disks {
		if other.Name == d.Name {
			p.reject(key+".name", "give each [[disk]] a name of its own", "there is a disk %s already", d.Name)
		}
	}
	d.Path = p.diskPath(key+".path", key, entry, d)
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

// diskPath reads the path of a disk, which has to be there: nothing is ever made of
// what is on a disk.
func (p *parser) diskPath(key, table string, entry fileDisk, d Disk) string {
	p.from(key, "")
	p.blame(key, table)
	if entry.Path == nil {
		p.reject(key, "write "+exampleOf("disk.path"), "no file or block device is given")
		return ""
	}
	path := filepath.Clean(*entry.Path)
	if !filepath.IsAbs(path) {
		p.reject(key, "write the whole path, from the / on", "%q is not an absolute path", *entry.Path)
		return path
	}
	st, err := os.Stat(path)
	switch {
	case err != nil:
		p.reject(key, "give it a file or a block device with content, such as a file system", "%v", err)
		return path
	case !st.Mode().IsRegular() && st.Mode().Type() != os.ModeDevice:
		p.reject(key, "give it a file or a block device", "%s is neither a file nor a block device", path)
		return path
	}
	for _, e := range p.config.Exports {
		if sameFile(e.Storage, path) {
			p.reject(key, "give each of them storage of its own", "%s is the storage of export %s already", path, e.Name)
		}
	}
	for _, other := range p.config.Disks {
		if sameFile(other.Path, path) && !(other.ReadOnly && d.ReadOnly) {
			p.reject(key, "make both read_only, or serve it once", "%s is the disk %s already, and one of them is written", path, other.Name)
		}
	}
	return path
}
