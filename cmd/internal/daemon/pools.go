package daemon

import (
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cleancache"
	"github.com/tmemd/tmemd/cmd/internal/admin"
)

// Pools implements admin.Service.
func (s service) Pools() ([]admin.Pool, error) {
	snapshot := s.d.snapshot()
	pools := []admin.Pool{}
	for _, x := range snapshot.Exports {
		a := x.Stats.Area
		p := admin.Pool{
			Name: x.Name, Client: a.Client, Sort: "persistent", UsedBytes: a.Used,
			SuccPuts: a.SuccStores, FailedPuts: a.FailedStores, SuccGets: a.Loads, FailedGets: a.LoadErrors, Invalidates: a.Invalidates,
		}
		for _, pages := range a.Backends {
			p.Pages += uint64(max(pages, 0))
		}
		pools = append(pools, p)
	}
	for _, x := range snapshot.Disks {
		c := x.Stats.Cache
		p := admin.Pool{
			Name: x.Name, Sort: "ephemeral", SuccPuts: c.Puts, SuccGets: c.SuccGets, FailedGets: c.FailedGets, Invalidates: c.Invalidates,
		}
		for _, pages := range c.Backends {
			p.Pages += uint64(max(pages, 0))
		}
		if i := slices.IndexFunc(s.d.bases, func(b *servedBase) bool { return b.Name == x.Name }); i >= 0 {
			p.Sort, p.UUID = "shared", s.d.bases[i].UUID.String()
		}
		pools = append(pools, p)
	}
	return pools, nil
}

// Freeable implements admin.Service.
func (s service) Freeable() (f admin.Freeable, err error) {
	for _, b := range s.d.frontswap.Backends() {
		f.EphemeralPages += b.Stats.EphemeralPages
		if b.Stats.LimitBytes > 0 {
			f.Bytes += b.Backend.Room()
		}
	}
	return f, nil
}

// SharedAuths implements admin.Service.
func (s service) SharedAuths() ([]admin.SharedAuth, error) {
	list := []admin.SharedAuth{}
	for _, a := range s.d.cleancache.Authorised() {
		list = append(list, s.showAuth(a))
	}
	return list, nil
}

func (s service) showAuth(a cleancache.Authorisation) admin.SharedAuth {
	shown := admin.SharedAuth{UUID: a.UUID.String(), Users: a.Users, Authorised: true}
	if i := slices.IndexFunc(s.d.bases, func(b *servedBase) bool { return b.UUID == a.UUID }); i >= 0 {
		shown.Base = s.d.bases[i].Name
	}
	return shown
}

// SetSharedAuth implements admin.Service.
func (s service) SetSharedAuth(r admin.SharedAuth) (admin.SharedAuth, error) {
	id, err := cleancache.ParseUUID(r.UUID)
	if err != nil {
		return admin.SharedAuth{}, &admin.Error{Status: http.StatusBadRequest, Message: err.Error(), Hint: "write 32 hexadecimal digits, as in a UUID"}
	}
	if r.Authorised {
		s.d.cleancache.Authorise(id)
	} else if err := s.d.cleancache.Revoke(id); err != nil {
		told := &admin.Error{Status: http.StatusConflict, Message: err.Error(), Hint: "tmemctl pool shared-auth list shows what there is"}
		if errors.Is(err, cleancache.ErrInUse) {
			told.Hint = "take the disks that use it out of the configuration first"
		}
		return admin.SharedAuth{}, told
	}
	list, err := s.SharedAuths()
	for _, a := range list {
		if a.UUID == id.String() {
			return a, err
		}
	}
	return admin.SharedAuth{UUID: id.String()}, err
}

// Commitments implements admin.Service. Storage that is no file is promised as a whole,
// and its own.
func (s service) Commitments() ([]admin.Commitment, error) {
	list := []admin.Commitment{}
	at := map[uint64]int{} // by device number of the file system
	for _, x := range s.d.snapshot().Exports {
		path := x.Stats.Storage.Path
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		i, known := at[st.Dev]
		if !known {
			var fs unix.Statfs_t
			if err := unix.Statfs(path, &fs); err != nil {
				return nil, fmt.Errorf("look how much is free beside %s: %w", path, err)
			}
			i = len(list)
			at[st.Dev] = i
			list = append(list, admin.Commitment{Folder: filepath.Dir(path), FreeBytes: fs.Bavail * uint64(fs.Bsize)})
		}
		c := &list[i]
		c.Exports++
		c.PromisedBytes += uint64(x.Size)
		c.StoredBytes += uint64(max(x.Stats.Storage.AllocatedSize, 0))
		c.MemoryBytes += x.Stats.Area.Used
		c.WorstBytes += uint64(max(x.Size-x.Stats.Storage.AllocatedSize, 0))
	}
	return list, nil
}
