package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os/user"
	"strconv"
	"strings"
)

// Socket is who may connect to Unix sockets.
type Socket struct {
	Mode  fs.FileMode // permission bits
	Owner int         // user, or -1 for whoever runs the daemon
	Group int         // or -1
}

// defaultSocketMode lets the user in who runs the daemon, and root.
const defaultSocketMode = 0o600

// fileSocket is what a table of the file says of its sockets.
type fileSocket struct{ mode, owner, group literal }

func (p *parser) socket(table string, f fileSocket, c *Socket) {
	*c = Socket{Mode: defaultSocketMode, Owner: -1, Group: -1}
	p.from(table+".socket_mode", "")
	if f.mode != "" {
		mode, err := strconv.ParseUint(strings.TrimPrefix(string(f.mode), "0o"), 8, 32)
		if err != nil || mode > 0o777 {
			p.reject(table+".socket_mode", `write three octal digits in quotes: "0660"`, "%q is no mode", string(f.mode))
		}
		c.Mode = fs.FileMode(mode)
	}
	c.Owner = p.account(table+".socket_owner", f.owner, func(name string) (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	})
	c.Group = p.account(table+".socket_group", f.group, func(name string) (string, error) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	})
}

// account finds the number of a user or group, given by name or number.
func (p *parser) account(key string, entry literal, lookUp func(name string) (string, error)) int {
	if entry == "" {
		return -1
	}
	p.from(key, "")
	text := string(entry)
	number, err := strconv.ParseUint(text, 10, 31)
	if err == nil {
		return int(number)
	}
	id, err := lookUp(text)
	if err == nil {
		number, err = strconv.ParseUint(id, 10, 31)
	}
	if err == nil {
		return int(number)
	}
	var noUser user.UnknownUserError
	var noGroup user.UnknownGroupError
	if errors.As(err, &noUser) || errors.As(err, &noGroup) {
		err = errors.New("this system does not know it")
	}
	p.reject(key, "write a name that this system knows, or a number", "%v", fmt.Errorf("%q: %w", text, err))
	return -1
}
