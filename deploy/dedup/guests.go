package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tmemd/tmemd/deploy/vm"
)

//go:embed init.sh
var initScript []byte

const (
	guestMiB = 512
	warm     = 12 // visits before a guest is ready, and before clones are taken
	phases   = 3
)

// phasePatience bounds the boot and each phase, of all guests at once, in emulation.
const phasePatience = 8 * time.Minute

// library is where Debian's Python has its modules, and what of them no program here needs.
var (
	library = []string{"/usr/lib/python3.11", "/usr/lib/python3/dist-packages/django", "/usr/lib/python3/dist-packages/gunicorn",
		"/usr/lib/python3/dist-packages/sqlparse", "/usr/lib/python3/dist-packages/asgiref", "/usr/lib/python3/dist-packages/pytz",
		"/usr/lib/python3/dist-packages/pkg_resources"}
	without = map[string]bool{"test": true, "tests": true, "idlelib": true, "lib2to3": true, "ensurepip": true, "tkinter": true, "gis": true, "static": true,
		"pydoc_data": true, "distutils": true, "config-3.11-x86_64-linux-gnu": true}
)

// measureGuests boots guests one beside the other, of one image, and counts what they swap out. Then it starts as many from
// one saved state of a booted guest.
func measureGuests(ctx context.Context, o options, folder, scripts string, out io.Writer) error {
	kernel, err := vm.FetchKernel(ctx, o.cache, o.series)
	if err != nil {
		return err
	}
	image := vm.Image{Kernel: kernel, Script: initScript, Tools: []string{"nbd-client", "mkswap", "swapon"},
		Programs: []string{"/usr/bin/python3.11"}, Folders: library, Without: without, Files: make(map[string][]byte)}
	for _, name := range []string{"shop.py", "visitors.py", "reader.py"} {
		content, err := os.ReadFile(filepath.Join(scripts, name))
		if err != nil {
			return err
		}
		image.Files["programs/"+name] = content
	}
	for _, name := range []string{"UTC", "tzdata.zi", "zone.tab", "zone1970.tab", "iso3166.tab"} { // which Django looks for
		content, err := os.ReadFile("/usr/share/zoneinfo/" + name)
		if err != nil {
			return err
		}
		image.Files["usr/share/zoneinfo/"+name] = content
	}
	initramfs := filepath.Join(folder, "initramfs")
	if err := image.Build(ctx, initramfs); err != nil {
		return err
	}
	base := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-accel", "tcg,thread=multi,tb-size=128", "-smp", "1", "-m", strconv.Itoa(guestMiB), "-serial", "stdio",
		"-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=",
		"-kernel", kernel.Image, "-initrd", initramfs,
	}
	saved := filepath.Join(folder, "saved")
	var booted [][]string
	for n := range o.guests {
		parameters := fmt.Sprintf("console=ttyS0 quiet panic=-1 rootfstype=ramfs mitigations=off no_timer_check tsc=unstable clocksource=hpet "+
			"random.trust_cpu=on warm=%d warm_seed=boot-%d visits=%d", warm, n, o.guestVisits)
		booted = append(booted, append(append([]string(nil), base...), "-append", parameters))
	}
	monitors := func(n int) string { return filepath.Join(folder, fmt.Sprint("monitor-", n)) }
	for n := range booted {
		booted[n] = append(booted[n], "-monitor", "unix:"+monitors(n)+",server=on,wait=off")
	}
	onMonitor := func(ctx context.Context, n int, do func(*monitor) error) error {
		m, err := openMonitor(ctx, monitors(n))
		if err != nil {
			return err
		}
		return errors.Join(do(m), m.conn.Close())
	}
	isReady := func(ctx context.Context, n int, m *machine) error {
		if _, err := m.await(ctx, "ready"); err != nil || n > 0 {
			return err
		}
		return onMonitor(ctx, n, func(m *monitor) error { return m.saveState(ctx, saved) })
	}
	if err := measureMachines(ctx, "guests of one image", booted, isReady, out); err != nil {
		return err
	}
	var clones [][]string
	for n := range o.guests { // QEMU wants what the first was started with, but for the monitor
		clones = append(clones, append(append([]string(nil), booted[0][:len(booted[0])-1]...),
			"unix:"+monitors(n)+",server=on,wait=off", "-incoming", "exec:cat "+saved))
	}
	isLoaded := func(ctx context.Context, n int, _ *machine) error {
		return onMonitor(ctx, n, func(m *monitor) error { return m.resume(ctx) })
	}
	return measureMachines(ctx, "clones of one running guest", clones, isLoaded, out)
}

// measureMachines starts guests, has them work and swap out in phases, and prints for each phase what all exports hold.
// ready returns when one of them waits for what it is told.
func measureMachines(ctx context.Context, name string, arguments [][]string, ready func(ctx context.Context, n int, m *machine) error, out io.Writer) error {
	var machines []*machine
	defer func() {
		for _, m := range machines {
			m.close()
		}
	}()
	for _, line := range arguments {
		m, err := startMachine(ctx, line)
		if err != nil {
			return err
		}
		machines = append(machines, m)
	}
	if err := inTime(ctx, func(ctx context.Context) error {
		for n, m := range machines {
			if err := ready(ctx, n, m); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for phase := 1; phase <= phases; phase++ {
		err := inTime(ctx, func(ctx context.Context) error {
			for n, m := range machines {
				if err := m.say(fmt.Sprintf("go %d %s-%d-%d", m.port, strings.ReplaceAll(name, " ", "-"), n, time.Now().UnixNano())); err != nil {
					return err
				}
			}
			for n, m := range machines {
				answer, err := m.await(ctx, "swapped")
				if err != nil {
					return err
				}
				var swappedKiB, left, tmpfs int
				if _, err := fmt.Sscan(answer, &swappedKiB, &left, &tmpfs); err != nil {
					return fmt.Errorf("guest %d said %q: %w", n, answer, err)
				}
				if swappedKiB == 0 || tmpfs > 0 {
					return fmt.Errorf("guest %d has swapped %d KiB, and has %d KiB of files that it might swap", n, swappedKiB, tmpfs)
				}
				fmt.Fprintf(out, "    guest %d has %d KiB in swap and %d KiB of programs in memory\n", n, swappedKiB, left)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s, phase %d: %w", name, phase, err)
		}
		if err := printExports(out, fmt.Sprintf("%d %s, phase %d", len(machines), name, phase), machines); err != nil {
			return err
		}
	}
	return nil
}

func inTime(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, phasePatience)
	defer cancel()
	return do(ctx)
}

// printExports counts each export, and all together, and says how much of the gain is of pages that are in several exports.
func printExports(out io.Writer, name string, machines []*machine) error {
	all, err := newCensus()
	if err != nil {
		return err
	}
	alone := 0.0
	for n, m := range machines {
		own, err := m.device.count()
		if err != nil {
			return err
		}
		g := own.gain()
		alone += g.LZ4.Once
		printGain(out, fmt.Sprintf("  %s: export %d by itself", name, n), g)
		all.merge(own)
	}
	g := all.gain()
	printGain(out, name+": all exports", g)
	_, err = fmt.Fprintf(out, "    between exports, index not counted: %.1f%% of lz4\n", 100*(alone-g.LZ4.Once)/g.LZ4.Held)
	return err
}
