package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/attach"
)

// devices checks the NBD devices that this host swaps to.
func (e *examination) devices() {
	areas, err := attach.SwapAreas(filepath.Join(e.Root, "proc"))
	if err != nil {
		e.unknown("swap", "host", err)
		return
	}
	ours := 0
	for _, area := range areas {
		if !strings.HasPrefix(area.Name, "/dev/nbd") {
			continue
		}
		ours++
		record, found := e.attachment(area.Name)
		e.agent(area.Name, record, found)
		e.queue(area.Name)
		e.scheduler(area.Name)
		e.priority(area, areas)
	}
	for _, r := range e.Attachments {
		if !containsArea(areas, r.Device) {
			e.add("swap", r.Device, Warning, "it is attached, and the kernel does not swap to it", "swapon "+r.Device+", or tmemctl detach "+r.Device)
		}
	}
	if ours == 0 {
		e.add("swap", "host", Note, "this host swaps to no NBD device", "tmemctl attach")
	}
}

func containsArea(areas []attach.SwapArea, name string) bool {
	for _, a := range areas {
		if a.Name == name {
			return true
		}
	}
	return false
}

func (e *examination) attachment(device string) (attach.Record, bool) {
	for _, r := range e.Attachments {
		if r.Device == device {
			return r, true
		}
	}
	return attach.Record{}, false
}

// leastDeadConn is the shortest time to wait for a server that is enough to
// restart one, with a drain of pages before it.
const leastDeadConn = 2 * time.Minute

// agent checks who looks after a device.
func (e *examination) agent(device string, r attach.Record, found bool) {
	const check = "agent"
	if !found {
		e.add(check, device, Problem, "nobody looks after it: when its server goes away, the pages on it are lost to the programs that have them",
			"swapoff "+device+" && nbd-client -d "+device+", then tmemctl attach")
		return
	}
	name, err := e.read("proc", strconv.Itoa(r.PID), "comm")
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && name != "tmemctl":
		e.add(check, device, Problem, fmt.Sprintf("its agent, process %d, is gone: when its server goes away, it will not come back", r.PID),
			"tmemctl attach "+device+" takes over while it is in use")
		return
	case err != nil:
		e.unknown(check, device, err)
		return
	case r.Phase == attach.PhaseReconnecting:
		e.add(check, device, Problem, "it is trying to reconnect: "+r.Problem, r.Hint+"; requests wait for "+r.DeadConnTimeout.String()+" and fail then")
	default:
		e.add(check, device, OK, fmt.Sprintf("process %d, %d reconnects", r.PID, r.Reconnects), "")
	}
	e.process("agent of "+device, r.PID, Problem)
	if r.DeadConnTimeout < leastDeadConn {
		e.add("dead connections", device, Warning, fmt.Sprintf("requests fail when the server is gone for %s", r.DeadConnTimeout), "attach it with --dead-conn-timeout 10m")
	} else {
		e.add("dead connections", device, OK, fmt.Sprintf("requests wait %s for a server", r.DeadConnTimeout), "")
	}
	if !r.Fenced {
		e.add("late requests", device, Warning, "its server does not end abandoned connections: a delayed request could undo a newer write after a reconnect", "use tmemd as the server")
	}
	if r.Address.Network == "tcp" && strings.HasPrefix(r.Address.Address, "127.") {
		e.add("transport", device, Problem, "it is attached over TCP to this host itself: packets are dropped just when memory is short", "attach it over the daemon's Unix socket")
	}
	if r.Discard {
		e.add("discard", device, OK, "the server is told of pages that are not needed any more", "")
	} else {
		e.add("discard", device, Warning, "the server keeps pages that are not needed any more", "attach it without --no-discard, to a server that takes TRIM")
	}
}

// queue checks what the kernel knows of a device.
func (e *examination) queue(device string) {
	const check = "device"
	queue := filepath.Join("sys/block", filepath.Base(device), "queue")
	block, err := e.number(queue, "logical_block_size")
	switch {
	case err != nil:
		e.unknown(check, device, err)
	case block != 4096:
		e.add(check, device, Warning, fmt.Sprintf("its blocks are of %d bytes", block), "nbd-client -b 4096, or tmemctl attach")
	default:
		e.add(check, device, OK, "blocks of 4096 bytes", "")
	}
	if rotational, err := e.number(queue, "rotational"); err == nil && rotational != 0 {
		e.add("rotational", device, Warning, "the kernel takes it for a disk that spins, and neither clusters swap nor discards it well", "echo 0 > /"+filepath.Join(queue, "rotational")+" before swapon")
	}
	if discard, err := e.number(queue, "discard_max_bytes"); err == nil && discard == 0 {
		e.add("discard", device, Warning, "the device takes no discard", "use a server that takes TRIM")
	}
}

// priority looks for swap that is used before the device.
func (e *examination) priority(area attach.SwapArea, all []attach.SwapArea) {
	const check = "priority"
	for _, other := range all {
		if other.Name == area.Name || strings.HasPrefix(other.Name, "/dev/nbd") || other.Priority < area.Priority {
			continue
		}
		e.add(check, area.Name, Warning, fmt.Sprintf("%s has priority %d and is used before it, or as much as it, with %d", other.Name, other.Priority, area.Priority),
			fmt.Sprintf("swapoff %s, or attach with --priority %d", other.Name, min(other.Priority+1, attach.MaxPriority)))
		return
	}
	e.add(check, area.Name, OK, fmt.Sprintf("%d, the highest", area.Priority), "")
}
