package config

import (
	"errors"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// DiskEntry is a disk that is asked for while the daemon runs, as the file would have
// it in a [[disk]]; what is empty is left out.
type DiskEntry struct {
	Name, Path   string
	ReadOnly     bool
	Base, Shared string
	Mode         string
	Allow        []string
}

// NewDisk reads a disk that is to be served beside the exports and disks that there are,
// and the bases of the configuration. The rules are those of the file.
func (c *Config) NewDisk(e DiskEntry, exports []Export, disks []Disk) (Disk, *cli.Error) {
	around := *c
	around.Exports, around.Disks, around.origins = exports, disks, map[string]origin{}
	p := parser{config: &around, asked: true}
	optional := func(text string) *string {
		if text == "" {
			return nil
		}
		return &text
	}
	p.disk("disk", fileDisk{
		Name: &e.Name, Path: &e.Path, ReadOnly: e.ReadOnly, Mode: optional(e.Mode), Allow: e.Allow,
		Base: optional(e.Base), Shared: optional(e.Shared),
	})
	var wrong *cli.Error
	if errors.As(errors.Join(p.errs...), &wrong) { // the first
		return Disk{}, wrong
	}
	return around.Disks[len(around.Disks)-1], nil
}
