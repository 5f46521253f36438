package cleancache

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// UUID names content that disks share: 128 bits, as in the kernel's init_shared_fs.
// It is no secret here. Who may use one is said by Authorise, and by default nobody
// may.
type UUID [16]byte

// ParseUUID reads 32 hexadecimal digits, with or without the usual hyphens. (Xen's
// parser lost the digits A to F, and its default was to let everybody in.)
func ParseUUID(text string) (id UUID, err error) {
	digits := text
	if len(text) == 36 {
		for _, at := range []int{8, 13, 18, 23} {
			if text[at] != '-' {
				return id, fmt.Errorf("%q is no UUID", text)
			}
		}
		digits = strings.ReplaceAll(text, "-", "")
	}
	if len(digits) != 2*len(id) {
		return id, fmt.Errorf("%q is no UUID", text)
	}
	if _, err := hex.Decode(id[:], []byte(digits)); err != nil {
		return UUID{}, fmt.Errorf("%q is no UUID", text)
	}
	return id, nil
}

// String returns the UUID as it is usually written.
func (id UUID) String() string {
	h := hex.EncodeToString(id[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// shared is a name that pages may be shared under.
type shared struct {
	pool  *Pool // nil while nobody uses it; guarded by Cleancache.mu
	users int   // guarded by Cleancache.mu
}

// Authorise lets disks share pages under the name: whoever calls InitSharedFS with it
// is trusted to have the same content on storage, and never to change it.
func (c *Cleancache) Authorise(id UUID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shares[id] == nil {
		c.shares[id] = &shared{}
	}
}

// ErrInUse is what Revoke fails with while disks use the name.
var ErrInUse = errors.New("disks share pages under this name")

// Revoke takes back what Authorise gave, if nobody uses it.
func (c *Cleancache) Revoke(id UUID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	share := c.shares[id]
	if share == nil {
		return fmt.Errorf("revoke %v: %w", id, ErrNotAuthorised)
	}
	if share.users > 0 {
		return fmt.Errorf("revoke %v: %d of them: %w", id, share.users, ErrInUse)
	}
	delete(c.shares, id)
	return nil
}

// Authorisation is a name that may be used.
type Authorisation struct {
	UUID  UUID
	Users int // disks that use it
}

// Authorised lists what was authorised, in the order of the names.
func (c *Cleancache) Authorised() (list []Authorisation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, share := range c.shares {
		list = append(list, Authorisation{id, share.users})
	}
	slices.SortFunc(list, func(a, b Authorisation) int { return bytes.Compare(a.UUID[:], b.UUID[:]) })
	return list
}

// InitSharedFS is InitFS for a disk that shares its pages with others: it returns the
// pool that there is under the name, or makes it as config says. The disk must never
// be written. It fails with ErrNotAuthorised unless the name was authorised.
func (c *Cleancache) InitSharedFS(id UUID, config FSConfig) (*Pool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	share := c.shares[id]
	if share == nil {
		return nil, fmt.Errorf("cache for disk %s, shared as %v: %w", config.Name, id, ErrNotAuthorised)
	}
	if share.pool == nil {
		p, err := c.initLocked(config)
		if err != nil {
			return nil, err
		}
		share.pool, p.shared = p, share
	}
	if share.pool.length != config.Pages {
		return nil, fmt.Errorf("cache for disk %s, shared as %v: it has %d pages, and %s has %d",
			config.Name, id, config.Pages, share.pool.name, share.pool.length)
	}
	share.users++
	return share.pool, nil
}

// endUse says whether that was the last use of the pool.
func (c *Cleancache) endUse(p *Pool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.shared == nil {
		return true
	}
	if p.shared.users--; p.shared.users > 0 {
		return false
	}
	p.shared.pool = nil
	return true
}
