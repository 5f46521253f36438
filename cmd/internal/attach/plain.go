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

// suitable refuses an export that cannot be swap, or is not to be.
func suitable(s Server, noSwap bool) error {
	switch {
	case s.IsDisk() && !noSwap:
		return cli.Failure("attach it with --no-swap, then mount it", "export %q is a disk: no swap is made of it", s.Name)
	case s.Flags&flagReadOnly != 0 && !noSwap:
		return cli.Failure("attach another export", "export %q is read-only", s.Name)
	case s.Size%pageSize != 0:
		return cli.Failure("give it a size that is a multiple of 4096", "export %q has %d bytes, which are not whole pages", s.Name, s.Size)
	case s.Flags&nbdHasFlags == 0:
		return cli.Failure("use another server", "the server of export %q does not say what it can do", s.Name)
	}
	return nil
}

// use makes of the configured device what was asked for.
func (a *Attachment) use() error {
	if a.record.NoSwap {
		return a.plain()
	}
	return a.swap()
}

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
