package daemon

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/nbd"
)

// reload reads the configuration file, the certificates and the files of donors anew.
// The file is checked as a whole first, then certificates; what can change while the
// daemon runs is changed then, all of it or nothing. New connections get the new
// certificates, open ones keep theirs.
func (d *Daemon) reload() (admin.Reloaded, error) {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	fresh, err := d.readSettings()
	if err != nil {
		return admin.Reloaded{}, err
	}
	keys, err := d.readKeys()
	if err != nil {
		return admin.Reloaded{}, err
	}
	told := admin.Reloaded{}
	if fresh != nil {
		told.File = d.config.File()
		if told.Applied, told.Restart, err = d.applySettings(fresh); err != nil {
			return admin.Reloaded{}, err
		}
	}
	for c, k := range keys {
		c.keys.Store(k)
		d.log.Info("certificates read anew", "table", c.table, "certificate", certificateName(k.Certificate.Leaf), "expires", k.Certificate.Leaf.NotAfter)
	}
	if told.DonorsFiles, err = d.readDonors(); err != nil {
		return admin.Reloaded{}, err
	}
	if len(keys)+len(told.DonorsFiles) == 0 && fresh == nil {
		return admin.Reloaded{}, &admin.Error{
			Status: http.StatusConflict, Message: "there is nothing to read anew: TLS is off", Hint: "there is no configuration file either: tmemd --config FILE",
		}
	}
	told.TLS, told.Ramster, told.Donor = d.showTLS(), d.ramsterKeys.show(true), d.donorKeys.show(true)
	return told, nil
}

// Reload implements admin.Service.
func (s service) Reload() (admin.Reloaded, error) { return s.d.reload() }

// readSettings reads the file anew; nil if there is none.
func (d *Daemon) readSettings() (*config.Config, error) {
	if d.options.Settings == nil || d.config.File() == "" {
		return nil, nil
	}
	fresh, err := d.options.Settings()
	if err != nil {
		d.log.Error("the configuration file is wrong, and nothing is changed", "error", err)
		return nil, refusedSettings(err)
	}
	return fresh, nil
}

// refusedSettings tells all that is wrong with a file.
func refusedSettings(err error) *admin.Error {
	list := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		list = joined.Unwrap()
	}
	var first *admin.Error
	for _, e := range list {
		told := &admin.Error{Status: http.StatusBadRequest, Message: e.Error()}
		var wrong *cli.Error
		if errors.As(e, &wrong) {
			told.Message, told.Hint, told.Excerpt = wrong.Problem, wrong.Hint, wrong.Excerpt
		}
		if first == nil {
			first, told.Message = told, "nothing is changed: "+told.Message
			continue
		}
		first.More = append(first.More, told)
	}
	return first
}

// readKeys reads the certificates of all parts.
func (d *Daemon) readKeys() (map[*certificates]*nbd.TLSKeys, error) {
	fresh := map[*certificates]*nbd.TLSKeys{}
	for _, c := range d.parts() {
		if c.tls.Mode == nbd.TLSOff {
			continue
		}
		keys, err := c.tls.Load(c.table)
		if err == nil {
			err = config.Validity(keys.Certificate.Leaf, time.Now())
		}
		if err != nil {
			d.log.Error("the certificates were not replaced, the old ones are used on", "table", c.table, "error", err)
			told := &admin.Error{Status: http.StatusConflict, Message: fmt.Sprintf("the old certificates are used on: %v", err), Hint: "put a good one in its place"}
			var bad *config.TLSError
			if errors.As(err, &bad) {
				told.Message, told.Hint = fmt.Sprintf("the old certificates are used on: %s: %v", bad.Setting, bad), bad.Hint
			}
			return nil, told
		}
		fresh[c] = keys
	}
	return fresh, nil
}
