package donor

import (
	"io"
	"time"

	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// greet finds out who is there and reads the greeting. It returns false if there is no
// session, for whatever reason; the client has been told then as much as it may know.
func (c *connection) greet() bool {
	d := c.donor
	defer d.greeting.Add(-1)
	if c.conn.SetDeadline(time.Now().Add(d.config.HelloTimeout)) != nil {
		return false
	}
	names, err := d.config.Identify(c.conn)
	if err != nil {
		d.unidentified.Add(1)
		d.config.Log.Debug("a client does not say who it is", "error", err)
		return false
	}
	d.admit(c, names)
	// To its end even if there is no grant: else the reply can be lost with a
	// connection that is reset. And no byte beyond: that is for the session's buffer.
	var b [wire.RequestSize + wire.HelloSize]byte
	if _, err := io.ReadFull(c.conn, b[:wire.RequestSize]); err != nil {
		return false
	}
	r, err := wire.DecodeRequest(b[:])
	if err != nil || r.Operation != wire.Hello || r.Number != 1 {
		return false
	}
	if _, err := io.ReadFull(c.conn, b[wire.RequestSize:]); err != nil {
		return false
	}
	a := c.hello(r.Generation, b[wire.RequestSize:])
	a.Operation, a.Number = wire.Hello, 1
	d.count(wire.Hello, a.Status)
	var reply [wire.ReplySize + wire.WelcomeSize]byte
	a.Encode(reply[:])
	switch a.Status {
	case wire.OK:
		d.party.EncodeWelcome(reply[wire.ReplySize:])
	case wire.Version:
		reply[wire.ReplySize] = wire.ProtocolVersion
	}
	_, err = c.conn.Write(reply[:wire.ReplySize+a.Length])
	if err == nil {
		err = c.conn.SetDeadline(time.Time{}) // idle owners are fine
	}
	if a.Status == wire.OK && err != nil {
		c.leave()
	}
	c.number = 1
	return a.Status == wire.OK && err == nil
}

// hello begins a session, or refuses it.
func (c *connection) hello(session uint64, payload []byte) wire.Reply {
	party, version, err := wire.DecodeHello(payload)
	switch {
	case err != nil:
		return wire.Reply{Status: wire.Bad}
	case c.client == nil: // before the version: that is for clients
	case version != wire.ProtocolVersion:
		return wire.Reply{Status: wire.Version, Length: 1}
	default:
		c.party = party
		if c.begin(session) {
			return wire.Reply{Length: wire.WelcomeSize}
		}
	}
	c.donor.denied.Add(1)
	return wire.Reply{Status: wire.Denied}
}

// begin makes the connection the session of its owner: once the earlier one acts no
// more, and what an earlier epoch left is gone.
func (c *connection) begin(session uint64) bool {
	d := c.donor
	d.mu.Lock()
	var o *owner
	if c.client.granted && !c.client.leaving && !d.closed {
		o = d.ownerLocked(c.client, c.party.Identity)
	}
	if o == nil || d.sessionsLocked(o) >= d.config.MaxSessions {
		d.mu.Unlock()
		return false
	}
	// Still with the table held: else the owner could be forgotten for another's sake.
	o.mu.Lock()
	if o.epoch == c.party.Epoch && session <= o.session {
		o.mu.Unlock()
		d.mu.Unlock()
		return false
	}
	earlier := o.current
	o.current, o.session, o.epoch = c, session, c.party.Epoch
	o.mu.Unlock()
	d.mu.Unlock()

	c.owner = o
	if earlier != nil {
		earlier.end()
		<-earlier.done
	}
	for {
		p := o.foreign(c.party.Epoch)
		if p == nil {
			break
		}
		d.destroy(p)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.current == c // not one that came meanwhile
}

// sessionsLocked counts those of all owners but one. REQUIRES: mu held.
func (d *Donor) sessionsLocked(but *owner) (n int) {
	for _, o := range d.owners {
		if o != but && !o.idle() {
			n++
		}
	}
	return n
}

// foreign returns a pool of another epoch, or nil. REQUIRES: as destroy.
func (o *owner) foreign(epoch [16]byte) *pool {
	for _, p := range o.pools {
		if p.epoch != epoch {
			return p
		}
	}
	return nil
}

// leave ends the session, if it is one. The next one waits until the goroutine is done.
func (c *connection) leave() {
	if c.owner == nil {
		return
	}
	c.owner.mu.Lock()
	defer c.owner.mu.Unlock()
	if c.owner.current == c {
		c.owner.current = nil
	}
}
