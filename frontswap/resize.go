package frontswap

import (
	"fmt"
	"os"

	"github.com/tmemd/tmemd/backends"
)

// Grow makes the area pages long. The pages that it gains read as zeros: because
// storage does there, if zeros is true, or because they are holes. Requests and
// moves go on meanwhile; the new pages are there for those that ask for the
// length afterwards. REQUIRES: no Grow, Shrink or Close is under way.
func (a *Area) Grow(pages uint64, zeros bool) error {
	old := a.Pages()
	if pages > backends.MaxPages {
		return fmt.Errorf("grow area %s: %d pages are more than %d", a.name, pages, uint64(backends.MaxPages))
	}
	if pages <= old {
		return nil
	}
	had := int64(len(a.memory.Bytes()))
	if err := a.memory.Grow(int64(pages)*wordSize, !a.overcommit); err != nil {
		return fmt.Errorf("grow area %s: %w", a.name, err)
	}
	if !a.overcommit {
		// What Shrink gave back of the map. Not all of it: what is claimed twice looks as
		// if it had been used (Touched).
		if err := claimMap(a.memory, old, min(pages, uint64(had)/wordSize)); err != nil {
			return fmt.Errorf("grow area %s: %w", a.name, err)
		}
	}
	if a.touched {
		if err := takeMap(a.memory, old, pages); err != nil {
			return fmt.Errorf("grow area %s: %w", a.name, err)
		}
	}
	a.mapped.grow(pages)
	if !a.overcommit {
		a.mapped.set(old, pages, true)
	}
	// Whoever has the old map goes on with it: it is the same memory (M1 of
	// sharedmem), and page locks do not depend on the length.
	a.publishWords()
	gained := OwnerNone
	if !zeros {
		// Words, although they take memory: a fresh word would say that storage has
		// the page, or, where it means a hole, leave storage as it is at the end.
		gained = OwnerHole
		if err := a.Reserve(old, pages); err != nil {
			return fmt.Errorf("grow area %s: %w", a.name, err)
		}
		for page := old; page < pages; page++ {
			a.at(page).Store(uint64(makeWord(OwnerHole, 0)))
		}
	}
	a.pages[gained].Add(int64(pages - old))
	a.length.Store(pages)
	return nil
}

// Content counts the pages from first on that may have something in them: all
// but holes.
func (a *Area) Content(first uint64) (n uint64) {
	count := func(from, to uint64) {
		for page := max(from, first); page < to; page++ {
			if a.Owner(page) != OwnerHole {
				n++
			}
		}
	}
	if a.fresh != OwnerHole {
		count(first, a.Pages()) // what nobody has touched is on storage
		return n
	}
	_ = a.Touched(func(from, to uint64) error { count(from, to); return nil })
	return n
}

// Shrink makes the area pages long. What backends have of the pages that it
// loses is dropped; a move that is at work there is waited for, one batch of it.
// When Shrink returns, nobody will read or write them on storage any more,
// except for storage's owner itself.
// REQUIRES: no request for these pages is or will be under way, nor is a Grow,
// Shrink or Close.
func (a *Area) Shrink(pages uint64) {
	old := a.Pages()
	if pages >= old {
		return
	}
	// One lock at a time, as pagelock wants it of everybody who comes with none.
	_ = a.Touched(func(first, last uint64) error {
		for page := max(first, pages); page < last; page++ {
			a.Lock(page)
			a.commit(page, makeWord(OwnerNone, 0))
			a.Unlock(page)
		}
		return nil
	})
	a.pages[OwnerNone].Add(-int64(old - pages))
	a.length.Store(pages)
	// The words are zero by now, so all that a failure costs is their memory.
	system := int64(os.Getpagesize())
	first := (int64(pages)*wordSize + system - 1) / system * system
	if last := int64(old) * wordSize / system * system; first < last {
		a.mapped.set(uint64(first)/wordSize, uint64(last)/wordSize, false)
		if err := a.memory.Punch(first, last-first); err != nil {
			a.fs.log.Warn("memory of the page map is not given back", "export", a.name, "error", err)
		}
	}
}
