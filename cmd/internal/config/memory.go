package config

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"
)

// memory decides where pages and what describes them are kept.
//
// By default in /dev/shm, for root too: it is a tmpfs on every distribution, and
// half as large as RAM. /run would be the other choice, but is often a tenth of RAM,
// which is less than zcache's default.
func (p *parser) memory() {
	const key = "memory_dir"
	p.from(key, "memory-dir")
	text := DefaultMemory(p.config.StateDir)
	switch {
	case p.flags.given["memory-dir"] && p.flags.memory != noMemory && p.flags.memory != "":
		dir, err := filepath.Abs(p.flags.memory)
		if err != nil {
			p.reject(key, "give it the whole path of a folder", "%v", err)
			return
		}
		text, p.config.MemoryChosen = dir, true
	case p.flags.given["memory-dir"]:
		text, p.config.MemoryChosen = p.flags.memory, true
	case p.file.Memory != nil:
		text, p.config.MemoryChosen = *p.file.Memory, true
	}
	if text == noMemory {
		return
	}
	if !filepath.IsAbs(text) {
		p.reject(key, "write the whole path of a folder on a tmpfs, from the / on, or off", "%q is not an absolute path", text)
		return
	}
	p.config.Memory = filepath.Clean(text)
	if p.config.MemoryChosen {
		p.needFolder(key, p.config.Memory)
	}
}

// DefaultMemory is the memory folder of a state folder, unless somebody chooses
// another one. Two state folders never share one.
func DefaultMemory(stateDir string) string {
	sum := sha256.Sum256([]byte(stateDir))
	return fmt.Sprintf("/dev/shm/tmemd-%x", sum[:6])
}
