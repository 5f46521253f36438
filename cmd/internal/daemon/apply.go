package daemon

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/cleancache"
	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/tier"
)

// step is something to change while the daemon runs, and how to change it back.
type step struct {
	name     string
	do, undo func() error
}

// changes are the differences of a configuration file, sorted.
type changes struct {
	d        *Daemon
	steps    []step
	settings map[string][]admin.Setting // of backends, by name: each is one step
	live     []admin.Change             // what the steps do
	waiting  []admin.Change             // what waits for a restart, or is overruled
}

// applySettings changes what can change while the daemon runs: all, or nothing. What was
// changed by tmemctl and is the same in the file as before stays as it is.
// reloading is held.
func (d *Daemon) applySettings(fresh *config.Config) (applied, waiting []admin.Change, err error) {
	c := changes{d: d, settings: map[string][]admin.Setting{}}
	for _, x := range d.written.Compare(fresh.Written()) {
		c.sort(admin.Change{Key: x.Key, Old: x.Old, New: x.New}, fresh)
	}
	for _, name := range slices.Sorted(maps.Keys(c.settings)) {
		c.steps = append(c.steps, c.backend(name))
	}
	if err := c.do(); err != nil {
		return nil, nil, err
	}
	// What waits is told again by the next reload.
	written := config.Written{}
	maps.Copy(written, d.written)
	for _, x := range c.live {
		written[x.Key] = x.New
		if x.New == "" {
			delete(written, x.Key)
		}
	}
	d.written = written
	d.log.Info("configuration read anew", "applied", keysOf(c.live), "restart", keysOf(c.waiting))
	return c.live, c.waiting, nil
}

func keysOf(list []admin.Change) (keys []string) {
	for _, c := range list {
		keys = append(keys, c.Key)
	}
	return keys
}

func (c *changes) wait(x admin.Change, note string) {
	x.Note = note
	c.waiting = append(c.waiting, x)
}

// sort finds out what becomes of a change.
func (c *changes) sort(x admin.Change, fresh *config.Config) {
	if flag := c.d.config.FlagOf(x.Key); flag != "" {
		c.wait(x, flag+" on the command line stands against it")
		return
	}
	table, rest, _ := strings.Cut(x.Key, ".")
	if x.Key == "log_level" {
		j := c.d.options.Journal
		old := j.Level()
		c.add(x, func() error { j.SetLevel(fresh.LogLevel); return nil }, func() error { j.SetLevel(old); return nil })
		return
	}
	// export.swap.writethrough; names may have dots, keys have none.
	i := strings.LastIndexByte(rest, '.')
	if i < 0 || x.Old == config.There || x.New == config.There {
		c.wait(x, map[string]string{
			"export": "tmemctl export create and delete do it now", "backend": "tmemctl backend load and unload do it now",
		}[table])
		return
	}
	switch name, key := rest[:i], rest[i+1:]; {
	case table == "export" && key == "writethrough":
		c.writethrough(x, name)
	case table == "disk" && key == "mode":
		c.mode(x, name)
	case table == "backend" && key != "kind" && key != "name":
		b, found := findBackend(c.d.frontswap, name)
		if !found || b.Kind != zcache.Kind {
			c.wait(x, "tmemctl backend replace does it now")
			return
		}
		if key == "size" {
			key = "max_pool"
		}
		c.settings[name] = append(c.settings[name], admin.Setting{Key: key, Value: orElse(x.New, "default")})
		c.live = append(c.live, x)
	default:
		c.wait(x, "")
	}
}

func orElse(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

func (c *changes) add(x admin.Change, do, undo func() error) {
	c.steps = append(c.steps, step{x.Key, do, undo})
	c.live = append(c.live, x)
}

func (c *changes) writethrough(x admin.Change, name string) {
	for _, e := range (service{c.d}).Exports() {
		if e.Name != name {
			continue
		}
		set := func(mode string) func() error {
			return func() error {
				_, err := (service{c.d}).SetExport(name, admin.ExportSettings{Writethrough: mode})
				return err
			}
		}
		c.add(x, set(orElse(x.New, tier.WritethroughOff.String())), set(e.Writethrough))
		return
	}
	c.wait(x, "there is no export "+name+" yet")
}

func (c *changes) mode(x admin.Change, name string) {
	for _, disk := range (service{c.d}).Disks() {
		if disk.Name != name {
			continue
		}
		set := func(mode string) func() error {
			return func() error {
				_, err := (service{c.d}).SetDisk(name, admin.DiskSettings{Mode: mode})
				return err
			}
		}
		c.add(x, set(orElse(x.New, cleancache.Inclusive.String())), set(disk.Mode))
		return
	}
	c.wait(x, "there is no disk "+name+" yet")
}

// backend is the step that gives a backend all that is new for it.
func (c *changes) backend(name string) step {
	fresh := c.settings[name]
	var old []admin.Setting
	if b, found := findBackend(c.d.frontswap, name); found {
		for _, s := range showSettings(b.Backend) {
			if slices.ContainsFunc(fresh, func(f admin.Setting) bool { return f.Key == s.Key }) {
				old = append(old, s)
			}
		}
	}
	set := func(settings []admin.Setting) func() error {
		return func() error {
			_, err := (service{c.d}).SetBackend(name, settings)
			return err
		}
	}
	return step{"backend." + name, set(fresh), set(old)}
}

// do takes the steps, or takes back those that were taken.
func (c *changes) do() error {
	for i, s := range c.steps {
		err := s.do()
		if err == nil {
			continue
		}
		for _, taken := range slices.Backward(c.steps[:i]) {
			if failed := taken.undo(); failed != nil {
				c.d.log.Error("what a failed reload changed stays changed", "setting", taken.name, "error", failed)
			}
		}
		c.d.log.Error("the reload failed, and nothing is changed", "setting", s.name, "error", err)
		told := &admin.Error{Status: http.StatusConflict, Message: fmt.Sprintf("nothing is changed: %s: %v", s.name, err)}
		var wrong *admin.Error
		if errors.As(err, &wrong) {
			told.Hint = wrong.Hint
		}
		return told
	}
	return nil
}
