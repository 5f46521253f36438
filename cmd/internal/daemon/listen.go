package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/config"
)

// errTaken says that somebody else serves on an address.
var errTaken = errors.New("somebody else serves on it")

// listen binds an address. A socket file that nobody answers on is what a dead
// process left, and is replaced; who may connect to a new one is access.
func listen(a config.Address, access config.Socket) (net.Listener, error) {
	switch a.Network {
	case "vsock":
		return listenVsock(a)
	case "tcp":
		l, err := net.Listen(a.Network, a.Address)
		if errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("listen on %s: %w", a, errTaken)
		}
		return l, err
	}
	if err := removeStale(a.Address); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", a, err)
	}
	l, err := net.Listen(a.Network, a.Address)
	if err != nil {
		return nil, err
	}
	// In a folder that others may enter they could connect until now, but
	// nobody has been accepted yet: permissions count when a client connects,
	// and the process's umask keeps others out from the start.
	err = os.Lchown(a.Address, access.Owner, access.Group) // -1 changes nothing
	if err == nil {
		err = os.Chmod(a.Address, access.Mode)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", a, err), l.Close())
	}
	return l, nil
}

// removeStale removes a socket that nobody answers on.
func removeStale(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().Type() != os.ModeSocket {
		return errors.New("there is a file of that name that is not a socket")
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return errTaken
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

// cureListen says what to do about an error of listen.
func cureListen(a config.Address, err error) string {
	switch {
	case errors.Is(err, errTaken) && a.Network == "unix":
		return "stop the other program, or choose another path"
	case errors.Is(err, errTaken):
		return "stop the other program (ss -ltnp names it), or choose another port; port 0 picks a free one"
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return "use an address of this machine, such as 127.0.0.1"
	case errors.Is(err, os.ErrPermission):
		return "choose an address that this user may serve on"
	}
	return "choose another address"
}

// boundAddress is where a listener for a really is: port 0 has become a port.
func boundAddress(a config.Address, l net.Listener) config.Address {
	if a.Network != "tcp" {
		return a
	}
	return config.Address{Network: a.Network, Address: l.Addr().String()}
}
