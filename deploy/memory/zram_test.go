//go:build memory

package memory

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends/sharedmem"
)

// deviceVariable tells the process that runs the tests which device is theirs.
const deviceVariable = "TMEMD_ZRAM_DEVICE"

const zramControl = "/sys/class/zram-control/"

func TestMain(m *testing.M) {
	if size := os.Getenv(holdVariable); size != "" {
		if err := hold(size); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(deviceVariable) != "" {
		goleak.VerifyTestMain(m)
		return
	}
	code, err := runWithDevice()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		code = 1
	}
	os.Exit(code)
}

// runWithDevice runs the tests in another process, and owns their device (M1).
func runWithDevice() (code int, err error) {
	text, err := os.ReadFile(zramControl + "hot_add")
	if err != nil {
		return 1, fmt.Errorf("add a zram device, which takes root and a kernel with zram: %w", err)
	}
	number := strings.TrimSpace(string(text))
	defer func() { err = errors.Join(err, removeDevice(number)) }()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP) // the tests get them too, and end

	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	c := exec.Command(self, os.Args[1:]...)
	c.Env = append(os.Environ(), deviceVariable+"="+number)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var exit *exec.ExitError
	if err := c.Run(); errors.As(err, &exit) {
		return max(1, exit.ExitCode()), nil
	} else if err != nil {
		return 1, err
	}
	return 0, nil
}

// removeDevice tries for a while: the device may still be open by udev.
func removeDevice(number string) (err error) {
	for range 50 {
		if err = os.WriteFile(zramControl+"hot_remove", []byte(number), 0o200); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("remove zram device %s: %w", number, err)
}

// zramTableEntry is what the driver has for each page of the device on a 64-bit
// kernel: a handle and the flags, 8 bytes each.
const zramTableEntry = 16

// zram is the device of this process.
type zram struct {
	sys    string // its folder below /sys/block
	file   *os.File
	buffer *sharedmem.Region // a page, aligned for O_DIRECT
}

func openZram(t *testing.T, pages int) *zram {
	t.Helper()
	number := os.Getenv(deviceVariable)
	z := &zram{sys: "/sys/block/zram" + number}
	must(t, os.WriteFile(z.sys+"/comp_algorithm", []byte("lz4"), 0o200))
	must(t, os.WriteFile(z.sys+"/disksize", []byte(strconv.Itoa(pages*pageSize)), 0o200))
	t.Cleanup(func() { must(t, os.WriteFile(z.sys+"/reset", []byte("1"), 0o200)) })

	text, err := os.ReadFile(z.sys + "/dev")
	must(t, err)
	var major, minor uint32
	_, err = fmt.Sscanf(string(text), "%d:%d", &major, &minor)
	must(t, err)
	// A node of our own: the machine may have no udev.
	node := filepath.Join(t.TempDir(), "zram")
	must(t, unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))))
	z.file, err = os.OpenFile(node, os.O_RDWR|unix.O_DIRECT|unix.O_EXCL, 0)
	must(t, err)
	t.Cleanup(func() { must(t, z.file.Close()) })
	z.buffer, err = sharedmem.NewPrivate("zram page", pageSize)
	must(t, err)
	t.Cleanup(func() { must(t, z.buffer.Close()) })
	return z
}

func (z *zram) write(page int, data []byte) error {
	copy(z.buffer.Bytes(), data)
	_, err := z.file.WriteAt(z.buffer.Bytes(), int64(page)*pageSize)
	return err
}

// check compares a page with what was written.
func (z *zram) check(page int, want []byte) error {
	if _, err := z.file.ReadAt(z.buffer.Bytes(), int64(page)*pageSize); err != nil {
		return err
	}
	if !bytes.Equal(z.buffer.Bytes(), want) {
		return fmt.Errorf("zram: page %d is not what was written", page)
	}
	return nil
}

// zramMemory is what mm_stat says, in bytes.
type zramMemory struct{ original, compressed, used, huge int64 }

func (z *zram) memory() (m zramMemory, err error) {
	text, err := os.ReadFile(z.sys + "/mm_stat")
	if err != nil {
		return m, err
	}
	fields := strings.Fields(string(text))
	if len(fields) < 8 {
		return m, fmt.Errorf("mm_stat has %d fields: %q", len(fields), text)
	}
	for i, to := range map[int]*int64{0: &m.original, 1: &m.compressed, 2: &m.used, 7: &m.huge} {
		if *to, err = strconv.ParseInt(fields[i], 10, 64); err != nil {
			return m, fmt.Errorf("mm_stat: %w", err)
		}
	}
	return m, nil
}

// compact has zsmalloc give back what it can.
func (z *zram) compact() error { return os.WriteFile(z.sys+"/compact", []byte("1"), 0o200) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
