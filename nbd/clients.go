package nbd

import (
	"cmp"
	"net"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Client is a connection in transmission.
type Client struct {
	ID          uint64 // number of the connection, unique for the life of the server
	Remote      string // address; "unix" for a Unix socket, whose clients have none
	Credentials *Credentials
	Encrypted   bool   // it speaks TLS
	Certificate string // the first name in the certificate that it showed, or empty
	Session     bool   // it belongs to a session, see OptionSession
	Export      string
	Since       time.Time // of the connection
}

// Credentials are those of the process that connected to a Unix socket, as the
// kernel vouches for them.
type Credentials struct {
	PID int32
	UID uint32
	GID uint32
}

// Clients lists the connections in transmission, oldest first.
func (s *Server) Clients() []Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	clients := make([]Client, 0, len(s.connections)-s.handshaking)
	for c := range s.connections {
		if c.export == nil {
			continue
		}
		client := Client{
			ID: c.id, Remote: c.remote, Credentials: c.credentials, Encrypted: c.encrypted, Session: c.session.id != (session{}).id, Export: c.export.Name, Since: c.opened,
		}
		if len(c.certificate) > 0 {
			client.Certificate = c.certificate[0]
		}
		clients = append(clients, client)
	}
	slices.SortFunc(clients, func(a, b Client) int { return cmp.Compare(a.ID, b.ID) })
	return clients
}

// remoteName is how a peer is called in logs and lists.
func remoteName(socket net.Conn) string {
	address := socket.RemoteAddr()
	if address == nil {
		return "unknown"
	}
	if name := address.String(); name != "" && name != "@" {
		return name
	}
	return address.Network()
}

// peerCredentials asks the kernel who is at the other end of a Unix socket. It
// is nil for other sockets.
func peerCredentials(socket net.Conn) *Credentials {
	local, ok := socket.(*net.UnixConn)
	if !ok {
		return nil
	}
	raw, err := local.SyscallConn()
	if err != nil {
		return nil
	}
	var ucred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		ucred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil || failed != nil {
		return nil
	}
	return &Credentials{PID: ucred.Pid, UID: ucred.Uid, GID: ucred.Gid}
}

// prepareSocket sets what a TCP connection needs: replies go out at once, and a
// peer that is gone without a word is noticed after about a minute and a half.
// Failing to set them costs speed or memory, not correctness.
func prepareSocket(socket net.Conn) {
	remote, ok := socket.(*net.TCPConn)
	if !ok {
		return
	}
	_ = remote.SetNoDelay(true)
	_ = remote.SetKeepAliveConfig(net.KeepAliveConfig{
		Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 6,
	})
}

// Disconnect closes the connections of an export's clients, who may come back at
// once. It does not wait until their requests have ended.
func (s *Server) Disconnect(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.connections {
		if c.export != nil && c.export.Name == name {
			c.transport.Close() // not its socket, as in joinSession
		}
	}
}
