package attach

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// diskIdentity is how tmemd describes exports that are disks, before what tells one from
// another: they have content of their own, which nobody is to make swap of.
const diskIdentity = "disk through tmemd"

// IsDisk says whether it is a disk, as far as the server says.
func (s Server) IsDisk() bool { return strings.HasPrefix(s.Identity, diskIdentity) }

// plain makes the configured device no swap: it is there, for whoever mounts it.
func (a *Attachment) plain() error {
	if err := a.host.appear(a.record.Device); err != nil {
		return err
	}
	if err := a.slot.save(a.record); err != nil {
		return err
	}
	a.made = false
	return nil
}

// release brings what was written to a device to its server, unless somebody uses it
// still: then it is refused (T3).
func release(path string) error {
	device, err := os.OpenFile(path, os.O_RDONLY|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return cli.Failure("umount it first", "%s is in use: mounted, or part of another device", path)
	}
	if err != nil {
		return fmt.Errorf("release %s: %w", path, err)
	}
	if err := errors.Join(device.Sync(), device.Close()); err != nil {
		return fmt.Errorf("release %s: %w", path, err)
	}
	return nil
}

// off ends every use of a device, or is refused while there is any that only its user
// can end.
func off(h host, path string) error {
	if err := h.swapOff(path); err != nil {
		return err
	}
	return h.release(path)
}
