package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/nbdtest"
	"github.com/tmemd/tmemd/nbd/tlstest"
)

// shown starts TLS with the daemon and returns the serial number of the
// certificate that it shows, and the connection, which is in negotiation.
func shown(t *testing.T, address string, config *tls.Config) (serial string, c *tls.Conn) {
	t.Helper()
	plain, err := net.Dial("tcp", address)
	must(t, err)
	t.Cleanup(func() { plain.Close() })
	must(t, plain.SetDeadline(time.Now().Add(patient)))
	_, err = io.ReadFull(plain, make([]byte, 18))
	must(t, err)
	hello := binary.BigEndian.AppendUint32(nil, 3)
	hello = binary.BigEndian.AppendUint64(hello, 0x49484156454F5054)
	hello = binary.BigEndian.AppendUint32(hello, 5) // STARTTLS
	_, err = plain.Write(binary.BigEndian.AppendUint32(hello, 0))
	must(t, err)
	reply := make([]byte, 20)
	_, err = io.ReadFull(plain, reply)
	must(t, err)
	if kind := binary.BigEndian.Uint32(reply[12:]); kind != 1 {
		t.Fatalf("STARTTLS is answered with %#x", kind)
	}
	c = tls.Client(plain, config)
	must(t, c.Handshake())
	return c.ConnectionState().PeerCertificates[0].SerialNumber.String(), c
}

// goTo asks for an export and returns the first reply's type.
func goTo(t *testing.T, c io.ReadWriter, export string) uint32 {
	t.Helper()
	b := binary.BigEndian.AppendUint64(nil, 0x49484156454F5054)
	b = binary.BigEndian.AppendUint32(b, 7)
	b = binary.BigEndian.AppendUint32(b, uint32(len(export)+6))
	b = binary.BigEndian.AppendUint32(b, uint32(len(export)))
	b = append(append(b, export...), 0, 0)
	_, err := c.Write(b)
	must(t, err)
	reply := make([]byte, 20)
	_, err = io.ReadFull(c, reply)
	must(t, err)
	_, err = io.ReadFull(c, make([]byte, binary.BigEndian.Uint32(reply[16:])))
	must(t, err)
	return binary.BigEndian.Uint32(reply[12:])
}

func TestReload(t *testing.T) {
	dir, files := t.TempDir(), t.TempDir()
	authority := tlstest.NewAuthority(t, "tmemd test")
	first, second := authority.Server(t), authority.Server(t)
	tlstest.WriteFiles(t, files, "server", first)
	authority.WriteFile(t, files, "clients.crt")
	path := filepath.Join(files, "tmemd.toml")
	must(t, os.WriteFile(path, []byte(strings.ReplaceAll(`
listen = ["tcp://127.0.0.1:0"]
[nbd.tls]
certificate = "DIR/server.crt"
key = "DIR/server.key"
client_ca = "DIR/clients.crt"
[[export]]
name = "swap"
size = "4MiB"
allow = ["cert:host7"]
[[export]]
name = "other"
size = "4MiB"
allow = ["cert:host8"]
`, "DIR", files)), 0o600))
	log := &logBuffer{}
	o := options(t, dir, log, "--config", path)
	d, err := Open(o)
	must(t, err)
	i := &instance{
		t: t, dir: dir, signals: make(chan os.Signal, 4), ended: make(chan error, 1), log: log,
		client: admin.NewClient(filepath.Join(dir, "admin.sock")),
	}
	t.Cleanup(i.client.Close)
	ready, hangups := make(chan struct{}), make(chan os.Signal)
	stop := d.reloadOn(hangups)
	go func() { i.ended <- d.Run(i.signals, func() { close(ready) }) }()
	<-ready

	address := d.bound[0].Address.Address
	client := authority.Client(t, "host7")
	config := &tls.Config{RootCAs: authority.Pool(), ServerName: "localhost", Certificates: []tls.Certificate{client}}
	expect := func(want tls.Certificate) *tls.Conn {
		t.Helper()
		serial, c := shown(t, address, config)
		if serial != want.Leaf.SerialNumber.String() {
			t.Error("the daemon shows another certificate")
		}
		return c
	}
	old := expect(first)
	if kind := goTo(t, old, "other"); kind != 1<<31+6 {
		t.Errorf("an export of others: reply %#x, want unknown", kind)
	}
	if kind := goTo(t, old, "swap"); kind != 3 {
		t.Errorf("our export: reply %#x, want information", kind)
	}

	// What is no good changes nothing, and is told: to whoever asked, and in the
	// log for a signal.
	tlstest.WriteFiles(t, files, "server", second)
	must(t, os.WriteFile(filepath.Join(files, "server.key"), []byte("half a key"), 0o600))
	_, err = i.client.Reload(context.Background())
	var told *cli.Error
	if !errors.As(err, &told) || !strings.Contains(told.Problem, "the old certificates are used on: nbd.tls.key: ") || told.Hint == "" {
		t.Errorf("a broken key: %v", err)
	}
	expect(first)
	tlstest.WriteFiles(t, files, "server", authority.Issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "server"}, DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(-time.Minute),
	}))
	hangups <- unix.SIGHUP
	i.awaitLog("the certificates were not replaced")
	i.awaitLog("expired at")
	expect(first)

	tlstest.WriteFiles(t, files, "server", second)
	hangups <- unix.SIGHUP
	i.awaitLog("certificates read anew")
	expect(second)
	third := authority.Server(t)
	tlstest.WriteFiles(t, files, "server", third)
	reloaded, err := i.client.Reload(context.Background())
	must(t, err)
	answer := *reloaded.TLS
	if reloaded.Ramster != nil || reloaded.Donor != nil || answer.Certificate != "server" || !answer.Required || !answer.ClientCertificates || !answer.Expires.Equal(third.Leaf.NotAfter) {
		t.Errorf("reload: %+v, %v", answer, err)
	}
	expect(third)

	// Whoever was attached is attached still, and known by name.
	s := i.status()
	if len(s.Clients) != 1 || s.Clients[0].Certificate != "host7" || !s.Clients[0].Encrypted || s.TLS == nil || *s.TLS != answer {
		t.Errorf("clients %+v, TLS %+v", s.Clients, s.TLS)
	}
	must(t, old.Close())
	stop()
	i.stop()
	if text := log.String(); !strings.Contains(text, "refused an export") || !strings.Contains(text, "certificate=[host7]") {
		t.Errorf("the log does not tell who was refused:\n%s", text)
	}
}

func TestReloadWithoutTLS(t *testing.T) {
	i := start(t, t.TempDir())
	var told *cli.Error
	if _, err := i.client.Reload(context.Background()); !errors.As(err, &told) || told.Problem != "there is nothing to read anew: TLS is off" {
		t.Errorf("%v", err)
	}
	i.stop()
}

// TestNoCertificate: files that are gone after they were checked.
func TestNoCertificate(t *testing.T) {
	files := t.TempDir()
	authority := tlstest.NewAuthority(t, "tmemd test")
	certificate, key := tlstest.WriteFiles(t, files, "server", authority.Server(t))
	path := filepath.Join(files, "tmemd.toml")
	must(t, os.WriteFile(path, fmt.Appendf(nil, "[nbd.tls]\ncertificate = %q\nkey = %q\n", certificate, key), 0o600))
	o := options(t, t.TempDir(), &logBuffer{}, "--config", path, "--size", "4MiB")
	must(t, os.Remove(key))
	_, err := Open(o)
	var told *cli.Error
	if !errors.As(err, &told) || !strings.HasPrefix(told.Problem, path+":3: nbd.tls.key: ") || told.Hint == "" {
		t.Errorf("%v", err)
	}
}

// TestAccessRules: rules of the configuration and of requests, which the next
// run knows too.
func TestAccessRules(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(t.TempDir(), "tmemd.toml")
	me := os.Geteuid()
	must(t, os.WriteFile(path, fmt.Appendf(nil, `
[[export]]
name = "swap"
size = "4MiB"
allow = ["uid:%d"]
[[export]]
name = "closed"
size = "4MiB"
allow = ["uid:%d", "gid:%d"]
`, me, me+1, os.Getegid()+1), 0o600))
	begin := func() *instance {
		log := &logBuffer{}
		return run(t, options(t, dir, log, "--config", path), log)
	}
	check := func(i *instance, want map[string]bool) {
		t.Helper()
		for export, open := range want {
			c, err := nbdtest.Dial("unix", filepath.Join(dir, "nbd.sock"), export)
			if (err == nil) != open {
				t.Errorf("export %s: %v, want it open: %v", export, err, open)
			}
			if err == nil {
				must(t, c.Close())
			}
		}
		i.await("the clients are gone", func() bool { return len(i.status().Clients) == 0 })
	}
	i := begin()
	create := func(name string, rules ...string) error {
		_, err := i.client.CreateExport(context.Background(), admin.CreateRequest{Name: name, Size: "1MiB", Allow: rules})
		return err
	}
	must(t, create("mine", fmt.Sprintf("uid:%d", me)))
	must(t, create("theirs", fmt.Sprintf("uid:%d", me+1)))
	must(t, create("free"))
	for rule, problem := range map[string]string{
		"everybody": `allow: "everybody" is no rule`, "cert:x": `allow: "cert:x" fits nobody: clients are not asked for certificates`,
	} {
		var told *cli.Error
		if err := create("bad", rule); !errors.As(err, &told) || told.Problem != problem || told.Hint == "" {
			t.Errorf("rule %s: %v", rule, err)
		}
	}
	want := map[string]bool{"swap": true, "closed": false, "mine": true, "theirs": false, "free": true, "bad": false}
	check(i, want)
	i.stop()
	i = begin()
	check(i, want)
	i.stop()
}

func TestSocketAccess(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(t.TempDir(), "tmemd.toml")
	must(t, os.WriteFile(path, fmt.Appendf(nil, "[nbd]\nsocket_mode = \"0660\"\nsocket_owner = %d\nsocket_group = %d\n", os.Geteuid(), os.Getegid()), 0o600))
	i := start(t, dir, "--config", path)
	for name, mode := range map[string]os.FileMode{"nbd.sock": 0o660, "admin.sock": 0o600} {
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v, want mode %v", name, st.Mode(), err, mode)
		}
	}
	i.stop()
	// What cannot be done is an error, not a socket that is open to others.
	if os.Geteuid() != 0 {
		must(t, os.WriteFile(path, []byte("[nbd]\nsocket_owner = 0\n"), 0o600))
	} else {
		must(t, os.WriteFile(path, []byte("[nbd]\nsocket_owner = 2147483646\n"), 0o600))
	}
	o := options(t, dir, &logBuffer{}, "--config", path, "--size", "4MiB")
	if d, err := Open(o); err == nil {
		if os.Geteuid() != 0 {
			t.Error("a user gave a socket to root")
		}
		must(t, d.close())
	}
}

// TestExposure: who listens where others come gets told.
func TestExposure(t *testing.T) {
	files := t.TempDir()
	authority := tlstest.NewAuthority(t, "tmemd test")
	tlstest.WriteFiles(t, files, "server", authority.Server(t))
	authority.WriteFile(t, files, "clients.crt")
	const (
		loud   = "WHOEVER REACHES THIS ADDRESS"
		nobody = "nobody can open the export over TCP"
		tls    = "[nbd.tls]\ncertificate = \"DIR/server.crt\"\nkey = \"DIR/server.key\"\n"
		ca     = "client_ca = \"DIR/clients.crt\"\n"
		known  = "[[export]]\nname = \"swap\"\nallow = [\"cert:*\"]\n"
	)
	for _, test := range []struct {
		name, listen, text string
		want               []string // in the log, of these: loud, nobody, "may do without"
	}{
		{"Unix", "unix://DIR/nbd.sock", "", nil},
		{"loopback", "tcp://127.0.0.1:0", "", nil},
		{"IPv6 loopback", "tcp://[::1]:0", "", nil},
		{"everywhere", "tcp://0.0.0.0:0", "", []string{loud}},
		{"everywhere, IPv6", "tcp://[::]:0", "", []string{loud}},
		{"everywhere, encrypted", "tcp://0.0.0.0:0", tls, []string{loud}},
		{"everywhere, certificates", "tcp://0.0.0.0:0", tls + ca + known, nil},
		{"everywhere, certificates, no rules", "tcp://0.0.0.0:0", tls + ca, []string{nobody}},
		{"everywhere, optional", "tcp://0.0.0.0:0", tls + "mode = \"optional\"\n", []string{loud}},
		{"everywhere, optional, certificates", "tcp://0.0.0.0:0", tls + ca + "mode = \"optional\"\n" + known, []string{"may do without"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "tmemd.toml")
			text := strings.ReplaceAll(fmt.Sprintf("listen = [%q]\n", test.listen)+test.text, "DIR", files)
			must(t, os.WriteFile(path, []byte(text), 0o600))
			log := &logBuffer{}
			d, err := Open(options(t, dir, log, "--config", path, "--size", "4MiB"))
			must(t, err)
			must(t, d.close())
			for _, line := range []string{loud, nobody, "may do without"} {
				wanted := strings.Contains(strings.Join(test.want, "\n"), line)
				if strings.Contains(log.String(), line) != wanted {
					t.Errorf("%q in the log: want %v\n%s", line, wanted, log)
				}
			}
		})
	}
}

// TestInherited: sockets of a service manager replace those of the settings,
// and are there still after the daemon.
func TestInherited(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	file := func(l interface{ File() (*os.File, error) }, name string) *os.File {
		t.Helper()
		f, err := l.File()
		must(t, err)
		defer f.Close()
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		must(t, err)
		return os.NewFile(uintptr(fd), name)
	}
	listen := func(network, address string) net.Listener {
		t.Helper()
		l, err := net.Listen(network, address)
		must(t, err)
		t.Cleanup(func() { l.Close() })
		return l
	}
	local, other := listen("unix", elsewhere+"/n.sock").(*net.UnixListener), listen("tcp", "127.0.0.1:0").(*net.TCPListener)
	control := listen("unix", elsewhere+"/a.sock").(*net.UnixListener)

	log := &logBuffer{}
	o := options(t, dir, log, "--size", "4MiB", "--listen", "unix://"+dir+"/nbd.sock")
	o.Inherited = []*os.File{file(local, "tmemd.socket"), file(control, "admin"), file(other, "tmemd.socket")}
	i := run(t, o, log)
	for _, name := range []string{"nbd.sock", "admin.sock"} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is there, too: %v", name, err)
		}
	}
	i.client.Close()
	i.client = admin.NewClient(elsewhere + "/a.sock")
	t.Cleanup(i.client.Close)
	if got, want := strings.Join(i.status().Listen, " "), "unix://"+elsewhere+"/n.sock tcp://"+other.Addr().String(); got != want {
		t.Errorf("it listens on %s, want %s", got, want)
	}
	for network, address := range map[string]string{"unix": elsewhere + "/n.sock", "tcp": other.Addr().String()} {
		c, err := nbdtest.Dial(network, address, "swap")
		must(t, err)
		must(t, c.WritePages(1, 0, 10))
		must(t, c.CheckPages(1, 0, 10))
		must(t, c.Close())
	}
	i.stop()
	for _, name := range []string{"n.sock", "a.sock"} {
		if _, err := os.Stat(filepath.Join(elsewhere, name)); err != nil {
			t.Errorf("the daemon took the socket away: %v", err)
		}
	}

	// The same sockets serve the next daemon.
	o = options(t, dir, log, "--size", "4MiB")
	o.Inherited = []*os.File{file(local, "tmemd.socket")}
	i = run(t, o, log)
	c, err := nbdtest.Dial("unix", elsewhere+"/n.sock", "swap")
	must(t, err)
	must(t, c.CheckPages(1, 0, 10))
	must(t, c.Close())
	i.stop()

	// What is no listening stream socket is told.
	datagram, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: elsewhere + "/d.sock", Net: "unixgram"})
	must(t, err)
	defer datagram.Close()
	connected, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: elsewhere + "/n.sock", Net: "unix"})
	must(t, err)
	defer connected.Close()
	plain, err := os.Create(elsewhere + "/file")
	must(t, err)
	for problem, files := range map[string][]*os.File{
		"inherited socket d: nobody listens on it":                           {file(datagram, "d")},
		"inherited socket c: nobody listens on it":                           {file(connected, "c")},
		"file: getsockopt: socket operation on non-socket":                   {plain},
		"inherited socket x: getsockopt: bad file descriptor":                {os.NewFile(999, "x")},
		"inherited socket admin: the admin API is served on one Unix socket": {file(other, "admin")},
		"admin: the admin API is served on one Unix socket":                  {file(control, "admin"), file(local, "admin")},
	} {
		o := options(t, dir, log, "--size", "4MiB")
		o.Inherited = files
		var told *cli.Error
		if _, err := Open(o); !errors.As(err, &told) || !strings.Contains(told.Problem, problem) || told.Hint == "" {
			t.Errorf("want %q: %v", problem, err)
		}
	}
}
