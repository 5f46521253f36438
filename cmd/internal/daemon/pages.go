package daemon

import (
	"errors"

	"github.com/tmemd/tmemd/cleancache"
	"github.com/tmemd/tmemd/cmd/internal/state"
	"github.com/tmemd/tmemd/frontswap"
)

// makeFrontswap makes the registry, which keeps its maps in the memory folder, and the
// one for disks, which follows it.
func (d *Daemon) makeFrontswap() {
	d.cleancache = cleancache.New(d.log)
	c := frontswap.Config{Log: d.log, Memory: d.memory, Follower: d.cleancache}
	if d.memory != nil {
		c.Record = func(list []frontswap.Registered) error { return d.writeRecord(list) }
	}
	d.frontswap = frontswap.Open(c)
	d.moves = newMoves(d.frontswap)
	d.makeClients()
}

// openRest opens what no earlier process left. loaded says that the backends of the
// configuration were loaded once; what became of them is the operator's business.
func (d *Daemon) openRest(p plan, loaded bool) (err error) {
	if err := d.openDevices(p.empty); err != nil {
		return err
	}
	if !loaded {
		if err := d.loadConfigured(); err != nil {
			return err
		}
	}
	if err := d.openBases(); err != nil {
		return err
	}
	if err := d.openDisks(); err != nil {
		return err
	}
	if d.nbd, err = d.newNBD(); err != nil {
		return err
	}
	if err := d.openLent(); err != nil {
		return err
	}
	// First: a process that dies in between leaves backends that are not loaded again.
	if err := d.recordComplete(); err != nil {
		return err
	}
	return d.saveState(false)
}

// number gives each export that is new its number.
func (d *Daemon) number(last state.State) {
	d.nextID = max(d.nextID, last.NextID)
	for _, e := range last.Exports {
		d.nextID = max(d.nextID, e.ID+1)
	}
	for _, e := range d.exports {
		if e.id == 0 {
			e.id = d.newID()
		}
	}
}

// newID REQUIRES: loading held once the daemon runs.
func (d *Daemon) newID() uint32 {
	d.nextID++
	return d.nextID - 1
}

// closePages closes devices and backends. If the memory is left for another
// process, nothing in it changes.
func (d *Daemon) closePages() error {
	var errs []error
	d.moves.tasks.Wait()
	errs = append(errs, d.closeDisks())
	for _, e := range d.exports {
		if e.device != nil {
			errs = append(errs, e.device.Close())
		}
	}
	if d.memory.Left() {
		return errors.Join(append(errs, d.frontswap.Abandon())...)
	}
	for _, b := range d.frontswap.Backends() { // empty now: its areas are closed
		u, err := d.moves.unload(b.Name)
		if err == nil {
			<-u.done
			err = u.Err()
		}
		errs = append(errs, err)
	}
	d.moves.tasks.Wait()
	return errors.Join(errs...)
}
