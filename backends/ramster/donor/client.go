package donor

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
)

// client is one who has a grant, or had one and left pages.
type client struct {
	name   string       // immutable
	quota  atomic.Int64 // 0 while there is no grant
	weight atomic.Int64

	slots atomic.Int64 // bytes of its objects' slots

	droppable atomic.Int64 // of these, of its ephemeral pages

	nodes  atomic.Int64 // bytes of its tables' nodes
	pages  [2]atomic.Int64
	target atomic.Int64 // what its use is to come down to; noTarget
	hand   int          // slot of the pool where its next page is dropped; guarded by Donor.evicting

	granted bool // guarded by Donor.mu
	leaving bool // Forget is under way: no session begins; guarded by Donor.mu
	pools   int  // guarded by Donor.mu
	owners  int  // guarded by Donor.mu
}

// The kinds of pages, as places in client.pages.
const (
	persistent = 0
	ephemeral  = 1

	noTarget = math.MaxInt64
)

// used is the memory that the client is charged with.
func (c *client) used() int64 { return c.slots.Load() + c.nodes.Load() }

// allowed is what it may use now.
func (c *client) allowed() int64 { return min(c.quota.Load(), c.target.Load()) }

// wanted is what it is to take back.
func (c *client) wanted() int64 {
	target := c.target.Load()
	if target == noTarget {
		return 0
	}
	return max(0, c.used()-target)
}

// owner is one set of pools: a client can be several hosts, or one host that runs
// several daemons.
type owner struct {
	client   *client  // immutable
	identity [16]byte // immutable

	// pools is by the owner's number. It is changed with Donor.mu held, by the
	// session's own goroutine only, which reads it without; see begin.
	pools map[uint32]*pool

	mu      sync.Mutex
	epoch   [16]byte    // guarded by mu
	session uint64      // the highest seen in the epoch; guarded by mu
	current *connection // the session; nil if there is none; guarded by mu
}

type ownerKey struct {
	client   *client
	identity [16]byte
}

// SetClients replaces the table of who may store how much. A client that is not in it
// any more is cut off; its persistent pages stay, see Forget.
func (d *Donor) SetClients(clients map[string]Grant) error {
	if err := checkGrants(clients); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.grantLocked(clients)
	for c := range d.connections {
		if c.client != nil && !c.client.granted {
			c.end()
		}
	}
	return nil
}

func (d *Donor) grantLocked(clients map[string]Grant) {
	for name, c := range d.clients {
		if _, ok := clients[name]; ok {
			continue
		}
		c.granted = false
		c.quota.Store(0)
		if c.pools == 0 && c.owners == 0 {
			delete(d.clients, name)
		}
	}
	for name, g := range clients {
		c := d.clientLocked(name)
		c.granted = true
		c.quota.Store(g.Quota)
		c.weight.Store(max(1, g.Weight))
	}
	d.askRoom()
}

// clientLocked finds the client, or makes one without a grant.
func (d *Donor) clientLocked(name string) *client {
	c := d.clients[name]
	if c == nil {
		c = &client{name: name}
		c.weight.Store(1)
		c.target.Store(noTarget)
		d.clients[name] = c
	}
	return c
}

// admit makes the connection one of the first of these names that has a grant.
func (d *Donor) admit(c *connection, names []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, name := range names {
		if found := d.clients[name]; found != nil && found.granted {
			c.client = found
			return
		}
	}
}

// ownerLocked finds the owner, or makes one, in the place of another that has nothing
// if need be; nil if the client has too many.
func (d *Donor) ownerLocked(c *client, identity [16]byte) *owner {
	key := ownerKey{c, identity}
	if o := d.owners[key]; o != nil {
		return o
	}
	if c.owners >= maxOwners && !d.forgetIdleLocked(c) {
		return nil
	}
	o := &owner{client: c, identity: identity, pools: make(map[uint32]*pool)}
	d.owners[key] = o
	c.owners++
	return o
}

func (d *Donor) forgetIdleLocked(c *client) bool {
	for key, o := range d.owners {
		if o.client == c && len(o.pools) == 0 && o.idle() {
			delete(d.owners, key)
			c.owners--
			return true
		}
	}
	return false
}

func (o *owner) idle() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.current == nil
}

// Forget destroys all that a client has stored which has no grant any more: nothing else
// ever drops its persistent pages.
func (d *Donor) Forget(name string) error {
	d.mu.Lock()
	found := d.clients[name]
	var ended []*connection
	for c := range d.connections {
		if found != nil && c.client == found {
			ended = append(ended, c)
		}
	}
	free := found != nil && !found.granted && !found.leaving
	if free {
		found.leaving = true
	}
	d.mu.Unlock()
	if !free {
		return fmt.Errorf("forget client %q: there is none, it may still store pages, or it is being forgotten", name)
	}
	for _, c := range ended {
		c.end()
		<-c.done
	}
	for p := d.poolOfClient(found); p != nil; p = d.poolOfClient(found) {
		d.destroy(p)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for key := range d.owners {
		if key.client == found {
			delete(d.owners, key)
			found.owners--
		}
	}
	found.leaving = false
	if !found.granted {
		delete(d.clients, name)
	}
	return nil
}

// poolOfClient returns one of its pools, or nil.
func (d *Donor) poolOfClient(c *client) *pool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for key, o := range d.owners {
		if key.client != c {
			continue
		}
		for _, p := range o.pools {
			return p
		}
	}
	return nil
}
