package attach

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
)

// DefaultRunDir is where agents note what they look after. It is on memory: a
// device does not outlive a boot either.
const DefaultRunDir = "/run/tmemctl"

// Phases of an attachment, as its record spells them.
const (
	PhaseAttached     = "attached"
	PhaseReconnecting = "reconnecting"
	PhaseDetaching    = "detaching"
)

// Record is what an agent notes of its device: for tmemctl detach, for tmemctl
// doctor, and for the agent that takes over if this one dies.
type Record struct {
	Device          string         `json:"device"` // "/dev/nbd0"
	Index           int            `json:"index"`
	PID             int            `json:"pid"`
	Started         uint64         `json:"started"` // when the process began; numbers are used again
	Address         config.Address `json:"address"`
	Server          Server         `json:"server"`
	Fenced          bool           `json:"fenced"`     // the server ends older connections when asked
	Session         []byte         `json:"session"`    // secret: whoever has it can end the connections
	Generation      uint64         `json:"generation"` // the newest that the server may have been told
	Backend         string         `json:"backend"`    // as the kernel knows it
	Connections     int            `json:"connections"`
	Priority        int            `json:"priority"`
	Discard         bool           `json:"discard"`
	Timeout         time.Duration  `json:"timeout"`
	DeadConnTimeout time.Duration  `json:"dead_conn_timeout"`
	NoSwap          bool           `json:"no_swap,omitempty"` // it is a disk, for whoever mounts it

	Phase      string `json:"phase"`
	Problem    string `json:"problem,omitempty"` // why it is not attached, or not detached
	Hint       string `json:"hint,omitempty"`
	Reconnects int    `json:"reconnects"`
	Detaches   int    `json:"detaches"` // how often a detach began
}

// slot is the place of one device's record. Its owner is the one agent of the
// device.
type slot struct {
	path string
	lock *os.File
}

func recordPath(dir string, index int) string {
	return filepath.Join(dir, fmt.Sprintf("nbd%d.json", index))
}

// takeSlot makes this process the device's agent.
func takeSlot(dir string, index int) (*slot, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the folder for records: %w", err)
	}
	path := recordPath(dir, index)
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("take /dev/nbd%d: %w", index, err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, cli.Failure("tmemctl detach ends it", "another tmemctl attach looks after /dev/nbd%d", index)
		}
		return nil, fmt.Errorf("take /dev/nbd%d: %w", index, err)
	}
	return &slot{path: path, lock: lock}, nil
}

// save replaces the record. Readers see one of the two.
func (s *slot) save(r Record) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the record: %w", err)
	}
	beside := s.path + ".new"
	if err := os.WriteFile(beside, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("save the record: %w", err)
	}
	if err := os.Rename(beside, s.path); err != nil {
		return fmt.Errorf("save the record: %w", err)
	}
	return nil
}

// remove says that there is nothing to look after any more.
func (s *slot) remove() error {
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the record: %w", err)
	}
	return nil
}

// close lets go of the device. The lock's file stays: removing it would give two
// agents a lock each.
func (s *slot) close() error { return s.lock.Close() }

// readRecord returns a device's record; found is false if there is none.
func readRecord(dir string, index int) (r Record, found bool, err error) {
	text, err := os.ReadFile(recordPath(dir, index))
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err != nil {
		return r, false, fmt.Errorf("read the record of /dev/nbd%d: %w", index, err)
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, false, fmt.Errorf("read the record of /dev/nbd%d: %w", index, err)
	}
	return r, true, nil
}

// Records returns the records in a folder.
func Records(dir string) ([]Record, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "nbd*.json"))
	if err != nil {
		return nil, err
	}
	var list []Record
	for _, path := range paths {
		index, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "nbd"), ".json"))
		if err != nil {
			continue
		}
		r, found, err := readRecord(dir, index)
		if err != nil {
			return nil, err
		}
		if found {
			list = append(list, r)
		}
	}
	return list, nil
}

// agentLives says whether somebody looks after a device.
func agentLives(dir string, index int) (bool, error) {
	lock, err := os.OpenFile(recordPath(dir, index)+".lock", os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the agent of /dev/nbd%d: %w", index, err)
	}
	defer lock.Close() // which gives the lock back, too
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the agent of /dev/nbd%d: %w", index, err)
	}
	return false, nil
}

// ParseDevice reads the name of a device, "/dev/nbd0" or "nbd0".
func ParseDevice(name string) (index int, err error) {
	number, ok := strings.CutPrefix(strings.TrimPrefix(name, "/dev/"), "nbd")
	if ok {
		index, err = strconv.Atoi(number)
	}
	if !ok || err != nil || index < 0 || strconv.Itoa(index) != number {
		return 0, cli.Misuse("write /dev/nbd0, for example", "%q is not an NBD device", name)
	}
	return index, nil
}

func devicePath(index int) string { return fmt.Sprintf("/dev/nbd%d", index) }
