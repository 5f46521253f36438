package daemon

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"

	"github.com/tmemd/tmemd/backends/sharedmem"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/cmd/internal/state"
	"github.com/tmemd/tmemd/frontswap"
)

const checkHelp = `tmemd check examines what a daemon left in its state folder and in memory, and
says whether the next start can take it over. It changes nothing. The daemon must
not be running.

usage: tmemd check [--state-dir DIR]

Exit status: 0 if all is well, 1 if something is damaged, missing or cannot be
examined, 2 for wrong flags.
`

// checkCommand is tmemd check.
func checkCommand(args []string, host config.Host, stdout io.Writer) error {
	set := flag.NewFlagSet("tmemd check", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	dir := set.String("state-dir", "", "")
	const hint = "tmemd check --help says how it is used"
	switch err := set.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		_, err := io.WriteString(stdout, checkHelp)
		return err
	case err != nil:
		return cli.Misuse(hint, "%v", err)
	case set.NArg() > 0:
		return cli.Misuse(hint, "tmemd check takes no arguments, not %q", set.Arg(0))
	}
	if *dir == "" {
		var err error
		if *dir, err = host.DefaultStateDir(); err != nil {
			return err
		}
	}
	path, err := filepath.Abs(*dir)
	if err != nil {
		return err
	}
	boot, err := state.BootID()
	if err != nil {
		return err
	}
	return (&checker{out: stdout, options: Options{BootID: boot, Log: slog.New(slog.DiscardHandler)}}).run(path)
}

// checker examines one state folder.
type checker struct {
	out     io.Writer
	options Options
	bad     int // things that are not as they should be
}

func (c *checker) say(format string, args ...any) { fmt.Fprintf(c.out, format+"\n", args...) }

func (c *checker) complain(format string, args ...any) {
	c.bad++
	c.say("  BAD: "+format, args...)
}

func (c *checker) run(dir string) error {
	folder, err := state.OpenToLook(dir)
	var inUse *state.InUseError
	switch {
	case errors.As(err, &inUse):
		return cli.Failure("stop it first, or ask it: tmemctl status", "%v", err)
	case err != nil:
		return cli.Failure("give --state-dir the folder of a tmemd", "%v", err)
	}
	defer folder.Close()
	s, found, err := folder.Load()
	switch {
	case err != nil:
		return err
	case !found:
		c.say("%s: no tmemd has served from here", dir)
		return nil
	}
	c.say("%s: state version %d, identity %s", dir, s.Version, s.Identity)
	c.exports(s)
	switch {
	case s.Clean:
		c.say("stopped properly: storage has every page")
	case s.BootID != c.options.BootID:
		c.say("not stopped properly, in an earlier boot of the machine: the next start empties the storage")
	case s.Memory == "":
		c.complain("not stopped properly, and without a memory folder: pages are gone, and only --fresh starts again")
	default:
		c.say("not stopped properly: the next start takes over from %s", s.Memory)
		if err := c.memory(s); err != nil {
			c.complain("%v", err)
		}
	}
	if c.bad > 0 {
		return cli.Failure("what is named above cannot be used as it is; "+freshHint, "%d problems found in %s", c.bad, dir)
	}
	c.say("all is well")
	return nil
}

func (c *checker) exports(s state.State) {
	for _, e := range s.Exports {
		if e.Moved != "" {
			c.say("export %s: moved to %s", e.Name, e.Moved)
			continue
		}
		if e.Restoring == state.RestoringExport {
			c.say("export %s: was being restored; the next start removes %s", e.Name, e.Storage)
			continue
		}
		if e.Deleted {
			c.say("export %s: deleted, its storage %s was kept", e.Name, e.Storage)
			continue
		}
		c.say("export %s: number %d, %s, storage %s", e.Name, e.ID, cli.Bytes(uint64(e.Size)), e.Storage)
		if s.BootID != c.options.BootID && !s.Clean {
			continue // it will be emptied
		}
		if err := hasContent(e.Storage, e.Size); err != nil {
			c.complain("its storage is not what it was: %v", err)
		}
	}
}

// memory examines the memory folder as a takeover does, up to the point where
// that begins to change things, and loads every page.
func (c *checker) memory(s state.State) (err error) {
	identity, err := sharedmem.ParseIdentity(s.Identity)
	if err != nil {
		return err
	}
	folder, err := sharedmem.OpenFolder(sharedmem.FolderConfig{Path: s.Memory, Identity: identity, Boot: s.BootID, ReadOnly: true})
	if err != nil {
		return err
	}
	d := &Daemon{log: c.options.Log, options: c.options, identity: identity, memory: folder, config: &config.Config{}}
	d.makeFrontswap()
	defer func() { err = errors.Join(err, d.frontswap.Abandon(), d.closeMemory()) }()
	r, err := d.restore()
	if err != nil {
		return err
	}
	var areas []*frontswap.Area
	defer func() {
		for _, a := range areas {
			err = errors.Join(err, a.Close())
		}
	}()
	missing := 0
	for _, e := range s.Exports {
		if e.Deleted || e.Moved != "" || e.Restoring == state.RestoringExport {
			continue
		}
		a, err := d.frontswap.OpenArea(frontswap.AreaConfig{Name: e.Name, ID: e.ID, Pages: uint64(e.Size / pageSize), Takeover: true})
		if err != nil {
			c.complain("%v", err)
			missing++
			continue
		}
		areas = append(areas, a)
		c.area(e, a.Examine())
	}
	for _, b := range d.frontswap.Backends() {
		i := slices.IndexFunc(r.Backends, func(r recordedBackend) bool { return r.Name == b.Name })
		c.backend(r.Backends[i], b, kinds[b.Kind].orphans(d.frontswap.Find(b.Name)), missing > 0)
	}
	return nil
}

func (c *checker) area(e state.Export, x frontswap.Examination) {
	c.say("page map of %s: %d untouched, %d on storage, %d holes", e.Name, x.None, x.Storage, x.Hole)
	names := make([]string, 0, len(x.Backends))
	for name := range x.Backends {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		c.say("  %d pages in %s", x.Backends[name], name)
	}
	if x.Elsewhere > 0 {
		c.say("  %d of these are elsewhere: other hosts have them, and are asked when the daemon runs", x.Elsewhere)
	}
	if x.Lost > 0 {
		c.complain("%d pages were lost in an earlier takeover, and are I/O errors", x.Lost)
	}
	c.pages("are not in their backend", x.Missing)
	c.pages("are damaged", x.Damaged)
}

// pages names the first few of the pages that something is wrong with.
func (c *checker) pages(what string, pages []uint64) {
	const most = 10
	if len(pages) > 0 {
		c.complain("%d pages %s, the first at page %v", len(pages), what, pages[:min(most, len(pages))])
	}
}

func (c *checker) backend(r recordedBackend, b frontswap.BackendStatus, orphans int64, incomplete bool) {
	c.say("backend %s (%s, %s): %d pages, %d of them without memory of their own", b.Name, b.Kind, r.State, b.Pages, b.Stats.SameFilledPages)
	for _, codec := range b.Stats.Codecs {
		c.say("  %s: %d pages in %s", codec.Name, codec.Pages, cli.Bytes(codec.Bytes))
	}
	for _, u := range b.Stats.Memory {
		c.say("  %s: %s of %s in memory", u.Purpose, cli.Bytes(uint64(u.Resident)), cli.Bytes(uint64(u.Mapped)))
	}
	note := ""
	if incomplete {
		note = ", some of them because a page map could not be read"
	}
	c.say("  %d copies that no map names: the next start frees them%s", orphans, note)
}
