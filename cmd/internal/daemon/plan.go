package daemon

import (
	"fmt"
	"os"
	"slices"

	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/cmd/internal/state"
	"github.com/tmemd/tmemd/tier"
)

// plan is what a start makes of what the last run left.
type plan struct {
	exports  []*export      // with the sizes that they will have
	clients  []state.Client // that there are to be
	deleted  []state.Export // remembered for later
	moved    []state.Export // another daemon has them
	takeover bool           // what the last run has in memory is taken over
	empty    bool           // storage is emptied first
	warning  string         // why it is, if nobody asked for it
	notes    []string       // what else is worth a line in the log
}

const freshHint = "start with --fresh, which empties the storage, and make swap anew: mkswap, swapon"

// makePlan decides, by whether the last run ended properly, and in which boot:
//
//	last run       | this boot | --fresh | storage
//	none           |           | either  | as it is, or emptied if asked
//	clean          | either    | no      | as it is; sizes and paths have to agree
//	clean          | either    | yes     | emptied
//	not clean      | the same  | no      | as it is, with the pages that are in the memory folder; if there was
//	               |           |         | none, refused: somebody may still count on the pages that are lost
//	not clean      | the same  | yes     | emptied
//	not clean      | a later   | either  | emptied: swap does not outlive a boot
//	not clean, but | either    | either  | as after a clean end, if there is no memory folder of this boot: a donor that
//	no exports     |           |         | lost what it lent; its owners have other copies
//
// Exports that a request created are served in each case, as if the
// configuration named them; one that it names by now is the configuration's.
// One that was deleted and that the configuration names is made anew, and the
// storage that was left is emptied.
//
// last and found are what Folder.Load returned.
func makePlan(c *config.Config, last state.State, found bool, bootID string) (plan, error) {
	p := plan{empty: c.Fresh}
	for _, e := range c.Exports {
		p.exports = append(p.exports, &export{Export: e})
	}
	if !c.Fresh {
		last = p.leaveMoved(last)
	}
	p.addCreated(last)
	p.addClients(c, last)
	if !found || c.Fresh {
		return p, nil
	}
	if !hasExports(last) && (last.Memory == "" || last.BootID != bootID) {
		last.Clean = true
	}
	p.takeover = !last.Clean && last.BootID == bootID && last.Memory != ""
	if !last.Clean && last.BootID == bootID && !p.takeover {
		return plan{}, cli.Failure(freshHint,
			"the tmemd that used %s did not end properly: pages that it had in memory are gone, and storage has none or older ones", c.StateDir)
	}
	if !last.Clean && !p.takeover {
		p.empty = true
		p.warning = "the last run did not end properly, but the machine was started anew since: " +
			"the storage is emptied, as swap does not outlive a boot; run mkswap again"
		if last.BootID == emptyingBoot {
			p.warning = "the last start did not come to its end while it emptied the storage: it is emptied now; run mkswap again"
		}
		return p, nil
	}
	for i := range p.exports {
		if p.wasDeleted(i, last) {
			continue
		}
		if err := p.agree(i, last, c); err != nil {
			return plan{}, err
		}
	}
	if p.takeover {
		return p, p.all(last)
	}
	return p, nil
}

// leaveMoved takes exports that another daemon has out of the plan, and returns the
// state without them. With --fresh they are forgotten instead.
func (p *plan) leaveMoved(last state.State) state.State {
	exports := last.Exports
	last.Exports = nil
	for _, before := range exports {
		if before.Moved == "" {
			last.Exports = append(last.Exports, before)
			continue
		}
		p.moved = append(p.moved, before)
		p.exports = slices.DeleteFunc(p.exports, func(e *export) bool { return e.Name == before.Name })
		p.notes = append(p.notes, fmt.Sprintf("export %s moved to %s and is not served here; tmemctl export delete %s forgets that", before.Name, before.Moved, before.Name))
	}
	return last
}

// hasExports says whether the last run had pages of its own to lose.
func hasExports(last state.State) bool {
	return slices.ContainsFunc(last.Exports, func(e state.Export) bool { return !e.Deleted })
}

// all holds a takeover to serving every export that there was: its pages are in
// memory.
func (p *plan) all(last state.State) error {
	for _, before := range last.Exports {
		if !before.Deleted && !slices.ContainsFunc(p.exports, func(e *export) bool { return e.Name == before.Name }) {
			return cli.Failure("put it back into the configuration; tmemctl export delete gives it up once the daemon runs, --fresh gives all up",
				"the last run did not end properly and has pages of the export %s in memory, which the configuration does not name any more", before.Name)
		}
	}
	return nil
}

// addCreated adds the exports that requests made in the last run, and keeps the
// deleted ones in mind that nobody asks for.
func (p *plan) addCreated(last state.State) {
	for _, before := range last.Exports {
		named := slices.ContainsFunc(p.exports, func(e *export) bool { return e.Name == before.Name })
		switch {
		case named:
		case before.Moved != "": // given up by --fresh
		case before.Deleted:
			p.deleted = append(p.deleted, before)
		case before.Created:
			// A mode that is not known is off.
			mode, _ := tier.ParseWritethrough(before.Writethrough)
			p.exports = append(p.exports, &export{created: true, Export: config.Export{
				Name: before.Name, Size: before.Size, SizeChosen: true, Storage: before.Storage, Writethrough: mode, Allow: before.Allow, Client: before.Client,
			}})
		}
	}
}

// wasDeleted says whether an export was deleted in the last run, and has it
// emptied if its storage is still there.
func (p *plan) wasDeleted(i int, last state.State) bool {
	e := p.exports[i]
	for _, before := range last.Exports {
		if before.Name == e.Name && before.Deleted {
			e.stale = before.Storage == e.Storage
			return true
		}
	}
	return false
}

// agree holds an export that was there before to its size and storage.
func (p *plan) agree(i int, last state.State, c *config.Config) error {
	e := p.exports[i]
	for _, before := range last.Exports {
		if before.Name != e.Name {
			continue
		}
		if before.Storage != e.Storage {
			return c.Fault(fmt.Sprintf("export[%d].storage", i),
				"move it to the new path, put the old path back, or start with --fresh",
				fmt.Errorf("the content of export %s is in %s, not in %s", e.Name, before.Storage, e.Storage))
		}
		if e.SizeChosen && before.Size != e.Size && before.Resized {
			p.notes = append(p.notes, fmt.Sprintf("export %s keeps the size that it was given by tmemctl export resize, %s, not the %s of the configuration",
				e.Name, cli.Bytes(uint64(before.Size)), cli.Bytes(uint64(e.Size))))
			e.resized = true
		} else if e.SizeChosen && before.Size != e.Size {
			return c.Fault(fmt.Sprintf("export[%d].size", i),
				"leave the size out to keep it, or start with --fresh to make the export anew",
				fmt.Errorf("export %s exists with %s (%d bytes), not %s", e.Name, cli.Bytes(uint64(before.Size)), before.Size, cli.Bytes(uint64(e.Size))))
		}
		e.Size, e.id, e.content, e.takeover = before.Size, before.ID, before.Content, p.takeover
		e.emptied = before.Restoring != ""
		if p.takeover && before.Writethrough != "" {
			e.Writethrough, _ = tier.ParseWritethrough(before.Writethrough) // one that is not known is off
		}
	}
	return nil
}

// complete checks, before anybody makes a file anew, that what the last run left
// is still there.
func (p *plan) complete(last state.State, c *config.Config) error {
	if p.empty {
		return nil
	}
	for i, e := range p.exports {
		for _, before := range last.Exports {
			if before.Name != e.Name || e.stale || before.Moved != "" {
				continue
			}
			if err := hasContent(e.Storage, before.Size); err != nil {
				return c.Fault(fmt.Sprintf("export[%d].storage", i),
					"bring it back (is its file system mounted?), or start with --fresh to make the export anew",
					fmt.Errorf("the content of export %s is missing: %w", e.Name, err))
			}
		}
	}
	return nil
}

// hasContent holds storage that was left in order to what it was then, before
// anybody makes a file of that name anew.
func hasContent(path string, size int64) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st.Mode().IsRegular() && st.Size() < size {
		return fmt.Errorf("%s has %d bytes of %d", path, st.Size(), size)
	}
	return nil
}
