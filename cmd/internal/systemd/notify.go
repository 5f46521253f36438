package systemd

import (
	"errors"
	"fmt"
	"net"
)

// Notify tells a service manager about this process, as sd_notify(3) does. An
// empty socket means that there is none.
func Notify(socket, message string) (err error) {
	if socket == "" {
		return nil
	}
	// A name that starts with @ is an abstract one, for package net, too.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: socket})
	if err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if _, err := conn.Write([]byte(message)); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	return nil
}
