package daemon

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/sharedmem"
	"github.com/tmemd/tmemd/frontswap"
)

// A record says which backends the page maps name. It is a memory file like the
// others, so that its memory is claimed beforehand: the tmpfs is full just when a
// backend is to be drained.
//
// The file has two places, which are written in turn; the newer one that is whole
// counts:
//
//	bytes 0–7    number of the record: the higher, the newer
//	bytes 8–11   length of the text
//	bytes 12–15  CRC-32C of all but these four bytes
//	bytes 16–…   text, in JSON
type record struct {
	Version  int               `json:"version"`
	Complete bool              `json:"complete"` // the backends of the configuration were loaded
	Backends []recordedBackend `json:"backends"`
}

const (
	recordName    = "backends"
	recordPurpose = "record of the backends"
	recordPlace   = 32 << 10 // bytes of one place
	recordHeader  = 16

	// recordVersion is the format of the record and of what it describes.
	recordVersion = 1
)

// recordedBackend is one backend that words of a page map may name.
type recordedBackend struct {
	Name     string          `json:"name"`
	Kind     string          `json:"kind"`
	Owner    frontswap.Owner `json:"owner"`
	Order    int             `json:"order"`
	State    string          `json:"state"`
	Reason   string          `json:"reason,omitempty"`
	Files    string          `json:"files"` // how the names of its memory files begin
	Settings json.RawMessage `json:"settings"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// createRecord makes the file, with nothing in it.
func createRecord(f *sharedmem.Folder) (*sharedmem.Region, error) {
	r, err := f.Create(recordName, recordPurpose, 2*recordPlace, 0)
	if err != nil {
		return nil, err
	}
	if err := r.Claim(0, 2*recordPlace); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// recordPlaces returns both places, the one that counts first; newest is its number,
// 0 if none is whole.
func recordPlaces(file []byte) (counts, other []byte, newest uint64) {
	counts, other = file[:recordPlace], file[recordPlace:2*recordPlace]
	first, second := recordNumber(counts), recordNumber(other)
	if second > first {
		return other, counts, second
	}
	return counts, other, first
}

// recordNumber is the number of the record in a place, 0 if it is not whole.
func recordNumber(place []byte) uint64 {
	length := binary.LittleEndian.Uint32(place[8:])
	if length > recordPlace-recordHeader || recordSum(place[:recordHeader+length]) != binary.LittleEndian.Uint32(place[12:]) {
		return 0
	}
	return binary.LittleEndian.Uint64(place)
}

func recordSum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:12], castagnoli), castagnoli, b[recordHeader:])
}

// writeRecord is frontswap's Config.Record.
func (d *Daemon) writeRecord(list []frontswap.Registered) error {
	if d.memory.Left() {
		return nil // another process's business
	}
	r := record{Version: recordVersion, Complete: d.complete.Load(), Backends: []recordedBackend{}}
	for _, b := range list {
		inner := behindRules(b.Backend)
		files, settings := kinds[inner.Kind()].describe(inner)
		text, err := json.Marshal(settings)
		if err != nil {
			return fmt.Errorf("record the settings of backend %s: %w", b.Name, err)
		}
		r.Backends = append(r.Backends, recordedBackend{
			Name: b.Name, Kind: inner.Kind(), Owner: b.Owner, Order: b.Order, State: b.State.String(), Reason: b.Reason, Files: files, Settings: text,
		})
	}
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("record the backends: %w", err)
	}
	if len(text) > recordPlace-recordHeader {
		return fmt.Errorf("record the backends: %d bytes are more than %d", len(text), recordPlace-recordHeader)
	}
	_, place, newest := recordPlaces(d.record.Bytes())
	copy(place[recordHeader:], text)
	binary.LittleEndian.PutUint64(place, newest+1)
	binary.LittleEndian.PutUint32(place[8:], uint32(len(text)))
	binary.LittleEndian.PutUint32(place[12:], recordSum(place[:recordHeader+len(text)]))
	return nil
}

// recordComplete notes that the backends of the configuration were loaded.
func (d *Daemon) recordComplete() error {
	d.complete.Store(true)
	if d.memory == nil {
		return nil
	}
	return d.frontswap.RecordAgain()
}

// readRecord reads what writeRecord wrote. The version first: the rest is another
// version's business.
func readRecord(file []byte) (r record, err error) {
	fail := func(reason error, detail any) (record, error) {
		return record{}, fmt.Errorf("%s: %w: %v", recordPurpose, reason, detail)
	}
	if len(file) != 2*recordPlace {
		return fail(sharedmem.ErrDamaged, fmt.Sprintf("it has %d bytes", len(file)))
	}
	place, _, newest := recordPlaces(file)
	if newest == 0 {
		return fail(sharedmem.ErrDamaged, "neither of its places is whole")
	}
	text := place[recordHeader : recordHeader+binary.LittleEndian.Uint32(place[8:])]
	var v struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(text, &v); err != nil {
		return fail(sharedmem.ErrDamaged, err)
	}
	if v.Version != recordVersion {
		return fail(sharedmem.ErrOtherVersion, fmt.Sprintf("it has version %d, this one knows version %d", v.Version, recordVersion))
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		return fail(sharedmem.ErrDamaged, err)
	}
	return r, nil
}

// reopen makes the backend that is recorded of its memory files.
func (d *Daemon) reopen(b recordedBackend) (backends.Backend, error) {
	k, known := kinds[b.Kind]
	if !known {
		return nil, fmt.Errorf("backend %s: %w: there is no kind %s here", b.Name, sharedmem.ErrOtherVersion, b.Kind)
	}
	made, err := k.reopen(b.Settings, d.newSite(b.Name, arena.Place{Folder: d.memory, Name: b.Files}))
	if err != nil {
		return nil, fmt.Errorf("backend %s: %w", b.Name, err)
	}
	return made, nil
}

// state is the state that is recorded; one that is not known is frozen.
func (b recordedBackend) state() frontswap.State {
	known := []frontswap.State{frontswap.StateActive, frontswap.StateDraining, frontswap.StateFrozen, frontswap.StateFailed}
	i := slices.IndexFunc(known, func(s frontswap.State) bool { return s.String() == b.State })
	if i < 0 {
		return frontswap.StateFrozen
	}
	return known[i]
}
