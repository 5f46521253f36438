package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends/ramster"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/nbd/tlstest"
)

// parseRemote parses a file on a host that knows every kind. DIR stands for a folder with
// host.crt, host.key, others.crt and other.key.
func parseRemote(t *testing.T, dir, text string, args ...string) (*Config, error) {
	t.Helper()
	path := filepath.Join(dir, "tmemd.toml")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "DIR", dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	host := testHost(dir)
	host.Kinds = []string{"ramster", "zcache"}
	config, _, err := Parse(append(args, "--config", path), host)
	return config, err
}

func peerFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	authority := tlstest.NewAuthority(t, "tmemd test")
	authority.WriteFile(t, dir, "others.crt")
	tlstest.WriteFiles(t, dir, "host", authority.Server(t))
	tlstest.WriteFiles(t, dir, "other", authority.Server(t))
	if err := os.WriteFile(filepath.Join(dir, "donors"), []byte("# ours\n\nnorth=vsock://3:10810\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

const (
	ramsterTLS = "[ramster.tls]\ncertificate = \"DIR/host.crt\"\nkey = \"DIR/host.key\"\nca = \"DIR/others.crt\"\n"
	donorTLS   = "[donor.tls]\ncertificate = \"DIR/host.crt\"\nkey = \"DIR/host.key\"\nclient_ca = \"DIR/others.crt\"\n"
)

// TestRamster gives every setting, and expects none to be forgotten.
func TestRamster(t *testing.T) {
	dir := peerFolder(t)
	config, err := parseRemote(t, dir, ramsterTLS+`
[[backend]]
kind = "ramster"
name = "others"
size = "200GiB"
donors = ["east=tcp://10.0.0.2:10810", "unix:///run/x.sock", "vsock://3:10811", "tcp://host.example.org:10810", "tcp://[fe80::1]:7"]
donors_file = "DIR/donors"
donors_srv = "_tmemd._tcp.example.org"
staging = "32MiB"
copies = 3
deadline = "200ms"
patience = "1m"
lost_after = "45s"
repair_rate = "1MiB"
home = "64MiB"
`)
	if err != nil {
		t.Fatal(err)
	}
	want := Ramster{
		Config: ramster.Config{
			Pages: 200 << 30 / 4096, Staging: 32 << 20, Copies: 3, Deadline: 200 * time.Millisecond, Patience: time.Minute, Lost: 45 * time.Second, Rate: 1 << 20, Home: 64 << 20,
			Donors: []ramster.Donor{
				{Name: "east", Address: "tcp://10.0.0.2:10810"}, {Name: "x", Address: "unix:///run/x.sock"}, {Name: "vsock-3-10811", Address: "vsock://3:10811"},
				{Name: "host.example.org", Address: "tcp://host.example.org:10810"}, {Name: "fe80-1-7", Address: "tcp://[fe80::1]:7"},
			},
		},
		DonorsFile: dir + "/donors", DonorsService: "_tmemd._tcp.example.org",
	}
	b := config.Backends[0]
	if b.Name != "others" || !reflect.DeepEqual(b.Ramster, want) {
		t.Errorf("got %+v, want %+v", b.Ramster, want)
	}
	if b.Memory != 32<<20+64<<20+200<<30/4096*stubBytes {
		t.Errorf("it may take %d bytes here", b.Memory)
	}
	for _, s := range RamsterSettings().Show(b.Ramster) {
		if s.Value == "" || s.Value == "none" || s.Value == "0" || s.Value == "off" {
			t.Errorf("%s is shown as %q", s.Key, s.Value)
		}
		var again Ramster
		if wrong := RamsterSettings().Set(&again, s, 16*gib); wrong != nil {
			t.Errorf("%s does not take what is shown: %v", s.Key, wrong)
		}
	}
	list, wrong := ReadDonors(dir + "/donors")
	if wrong != nil || !reflect.DeepEqual(list, []ramster.Donor{{Name: "north", Address: "vsock://3:10810"}}) {
		t.Errorf("donors of the file: %+v, %v", list, wrong)
	}

	config, err = parseRemote(t, dir, "[[backend]]\nkind = \"ramster\"\n[ramster.tls]\nmode = \"off\"\n")
	if err != nil || config.Backends[0].Ramster.Pages != 64<<30/4096 || config.Backends[0].Memory != 64<<20+64<<30/4096*stubBytes || !config.Ramster.Plain {
		t.Errorf("defaults: %+v, %v", config, err)
	}
}

// TestKeysOfRamster: each setting is a key of the file with an example.
func TestKeysOfRamster(t *testing.T) {
	for _, key := range RamsterSettings().Keys() {
		if exampleOf("backend."+key) == exampleOf("no such key") {
			t.Errorf("%s is no key of the file", key)
		}
	}
}

func TestRamsterErrors(t *testing.T) {
	const (
		backend = "[[backend]]\nkind = \"ramster\"\n"
		client  = "[[donor.client]]\nname = \"uid:0\"\nquota = \"1GiB\"\n"
		lends   = "[donor]\nlisten = [\"unix://DIR/d.sock\"]\n"
	)
	for _, test := range []struct{ name, text, want string }{
		{"settings", backend + "size = \"1K\"\nstaging = \"17GiB\"\ncopies = 5\ndeadline = \"1us\"\npatience = \"2h\"\nlost_after = \"soon\"\nrepair_rate = \"5%\"\n" +
			"donors_file = \"donors\"\ndonors_srv = \"example.org\"\n", `
error: DIR/tmemd.toml:3: backend.size: "1K" is outside 1 MiB to 64 TiB
3| size = "1K"
 |        ^
hint: write a whole number with KiB, MiB, GiB, TiB (or K, M, G, T, the same), or a percentage of RAM: 512MiB, 8GiB, 20%
error: DIR/tmemd.toml:4: backend.staging: "17GiB" is more than the RAM of this machine, 16 GiB
4| staging = "17GiB"
 |           ^
hint: write a whole number with KiB, MiB, GiB, TiB (or K, M, G, T, the same), or a percentage of RAM: 512MiB, 8GiB, 20%
error: DIR/tmemd.toml:10: backend.donors_file: "donors" is not an absolute path
10| donors_file = "donors"
  |               ^
hint: write the whole path, from the / on
error: DIR/tmemd.toml:11: backend.donors_srv: "example.org" is not the name of SRV records
11| donors_srv = "example.org"
  |              ^
hint: write a name such as _tmemd._tcp.example.org
error: DIR/tmemd.toml:5: backend.copies: "5" is no number of copies
5| copies = 5
 |          ^
hint: write a number from 1 to 4
error: DIR/tmemd.toml:6: backend.deadline: "1us" is not a time between 1ms and 1m
6| deadline = "1us"
 |            ^
hint: write a number with ms, s, m or h, such as 500ms
error: DIR/tmemd.toml:7: backend.patience: "2h" is not a time between 1ms and 1h
7| patience = "2h"
 |            ^
hint: write a number with ms, s, m or h, such as 500ms
error: DIR/tmemd.toml:8: backend.lost_after: "soon" is not a time between 1ms and 24h
8| lost_after = "soon"
 |              ^
hint: write a number with ms, s, m or h, such as 500ms
error: DIR/tmemd.toml:9: backend.repair_rate: "5%" is outside 4 KiB to 64 TiB
9| repair_rate = "5%"
 |               ^
hint: write bytes in a second, such as 32MiB
`},
		{"of another kind", backend + "codec = \"lz4\"\n[[backend]]\nkind = \"zcache\"\ncopies = 2\n", `
error: DIR/tmemd.toml:3: backend.codec: ramster has no setting "codec"
3| codec = "lz4"
 |         ^
hint: the settings are size, donors, donors_file, donors_srv, staging, copies, deadline, patience, lost_after, repair_rate, home
error: DIR/tmemd.toml:6: backend.copies: zcache has no setting "copies"
6| copies = 2
 |          ^
hint: the settings are max_pool, self_sizing, min_pool, codec, incompressible, accept_threshold_percent, staging, cold_after, cold_cpu_percent, scrub_period
`},
		{"donors", backend + "donors = [\"/run/x.sock\", \"a b=unix:///x\", \"tcp://10.0.0.2:0\", \"vsock://x:1\", \"vsock://3\", \"unix:///run/-.sock\"]\n", `
error: DIR/tmemd.toml:3: backend.donors: "/run/x.sock" is not an address
3| donors = ["/run/x.sock", "a b=unix:///x", "tcp://10.0.0.2:0", "vsock://x:1", "vsock://3", "unix:///run/-.sock"]
 |           ^
hint: write NAME=ADDRESS, or ADDRESS alone; addresses are tcp://HOST:PORT, unix:///PATH and vsock://CID:PORT
error: DIR/tmemd.toml:3: backend.donors: "a b" is not a name
3| donors = ["/run/x.sock", "a b=unix:///x", "tcp://10.0.0.2:0", "vsock://x:1", "vsock://3", "unix:///run/-.sock"]
 |                          ^
hint: use 1 to 64 letters, digits, dots, dashes and underscores, beginning with a letter or digit
error: DIR/tmemd.toml:3: backend.donors: "tcp://10.0.0.2:0" names no port
3| donors = ["/run/x.sock", "a b=unix:///x", "tcp://10.0.0.2:0", "vsock://x:1", "vsock://3", "unix:///run/-.sock"]
 |                                           ^
hint: write NAME=ADDRESS, or ADDRESS alone; addresses are tcp://HOST:PORT, unix:///PATH and vsock://CID:PORT
error: DIR/tmemd.toml:3: backend.donors: "vsock://x:1" has the context "x", which is not a number
3| donors = ["/run/x.sock", "a b=unix:///x", "tcp://10.0.0.2:0", "vsock://x:1", "vsock://3", "unix:///run/-.sock"]
 |                                                               ^
hint: write NAME=ADDRESS, or ADDRESS alone; addresses are tcp://HOST:PORT, unix:///PATH and vsock://CID:PORT
error: DIR/tmemd.toml:3: backend.donors: "vsock://3" has the port "", which is not a number
3| donors = ["/run/x.sock", "a b=unix:///x", "tcp://10.0.0.2:0", "vsock://x:1", "vsock://3", "unix:///run/-.sock"]
 |                                                                              ^
hint: write NAME=ADDRESS, or ADDRESS alone; addresses are tcp://HOST:PORT, unix:///PATH and vsock://CID:PORT
error: DIR/tmemd.toml:3: backend.donors: unix:///run/-.sock makes no name
3| donors = ["/run/x.sock", "a b=unix:///x", "tcp://10.0.0.2:0", "vsock://x:1", "vsock://3", "unix:///run/-.sock"]
 |                                                                                           ^
hint: give it one: NAME=unix:///run/-.sock
`},
		{"donors twice", backend + "donors = [\n \"unix:///run/x.sock\",\n \"unix:///var/x.sock\",\n \"y=unix:///run/x.sock\",\n]\n", `
error: DIR/tmemd.toml:5: backend.donors: unix:///run/x.sock and unix:///var/x.sock are both called x
5|  "unix:///var/x.sock",
 |  ^
hint: give each a name of its own: NAME=ADDRESS
error: DIR/tmemd.toml:6: backend.donors: unix:///run/x.sock is there twice
6|  "y=unix:///run/x.sock",
 |  ^
hint: remove one of them
`},
		{"no TLS", backend + "donors = [\"unix:///run/x.sock\", \"tcp://10.0.0.2:10810\"]\n", `
error: DIR/tmemd.toml:3: backend.donors: tcp://10.0.0.2:10810 needs TLS
3| donors = ["unix:///run/x.sock", "tcp://10.0.0.2:10810"]
 |                                 ^
hint: set certificate, key and ca in [ramster.tls], or mode = "off" if the address is loopback
`},
		{"TLS off", backend + "donors = [\"tcp://127.0.0.1:10810\", \"tcp://10.0.0.2:10810\"]\ndonors_srv = \"_a._tcp.b\"\n[ramster.tls]\nmode = \"off\"\n", `
error: DIR/tmemd.toml:3: backend.donors: tcp://10.0.0.2:10810 needs TLS, and it is off: it is not a loopback address
3| donors = ["tcp://127.0.0.1:10810", "tcp://10.0.0.2:10810"]
 |                                    ^
hint: set certificate, key and ca in [ramster.tls]
error: DIR/tmemd.toml:4: backend.donors_srv: donors that DNS names need TLS
4| donors_srv = "_a._tcp.b"
 |              ^
hint: set certificate, key and ca in [ramster.tls]
`},
		{"TLS mode", "[ramster.tls]\nmode = \"optional\"\n", `
error: DIR/tmemd.toml:2: ramster.tls.mode: "optional" is no mode
2| mode = "optional"
 |        ^
hint: write off or required
`},
		{"TLS files", "[ramster.tls]\ncertificate = \"DIR/host.crt\"\nkey = \"DIR/other.key\"\n[donor.tls]\nclient_ca = \"others.crt\"\n", `
error: DIR/tmemd.toml:1: ramster.tls.ca: it is needed for TLS
1| [ramster.tls]
 |  ^
hint: write ca = "/etc/tmemd/donors.crt"
error: DIR/tmemd.toml:4: donor.tls.certificate: it is needed for TLS
4| [donor.tls]
 |  ^
hint: write certificate = "/etc/tmemd/host.crt"
error: DIR/tmemd.toml:4: donor.tls.key: it is needed for TLS
4| [donor.tls]
 |  ^
hint: write key = "/etc/tmemd/host.key"
error: DIR/tmemd.toml:5: donor.tls.client_ca: "others.crt" is not an absolute path
5| client_ca = "others.crt"
 |             ^
hint: write the whole path, from the / on
error: DIR/tmemd.toml:4: donor.listen: no address to lend memory on
4| [donor.tls]
 |  ^
hint: write listen = ["tcp://10.0.0.2:10810", "unix:///run/tmemd/donor.sock"]
error: DIR/tmemd.toml:4: donor.client: nobody may borrow memory
4| [donor.tls]
 |  ^
hint: write [[donor.client]] on a line of its own, then its keys
`},
		{"TLS keys", strings.Replace(ramsterTLS, "host.key", "other.key", 1), `
error: DIR/tmemd.toml:3: ramster.tls.key: DIR/host.crt and DIR/other.key: tls: private key does not match public key
3| key = "DIR/other.key"
 |       ^
hint: give it the private key, in PEM and without a passphrase, that the certificate was made for
`},
		{"TLS key of another table", "[ramster.tls]\nclient_ca = \"DIR/others.crt\"\n", `
error: DIR/tmemd.toml:2: ramster.tls.client_ca: unknown key
2| client_ca = "DIR/others.crt"
 | ^
hint: remove it; the keys here are mode, certificate, key, ca
`},
		{"list", backend + "donors_file = \"DIR/host.crt\"\n", `
error: DIR/tmemd.toml:3: backend.donors_file: DIR/host.crt:1: "-----BEGIN CERTIFICATE-----" is not an address
3| donors_file = "DIR/host.crt"
 |               ^
hint: write NAME=ADDRESS, or ADDRESS alone; addresses are tcp://HOST:PORT, unix:///PATH and vsock://CID:PORT
`},
		{"no list", backend + "donors_file = \"DIR/none\"\n", `
error: DIR/tmemd.toml:3: backend.donors_file: stat DIR/none: no such file or directory
3| donors_file = "DIR/none"
 |               ^
hint: give it a text file with NAME=ADDRESS on each line
`},
		{"empty donor", "[donor]\n", `
error: DIR/tmemd.toml:1: donor.listen: no address to lend memory on
1| [donor]
 |  ^
hint: write listen = ["tcp://10.0.0.2:10810", "unix:///run/tmemd/donor.sock"]
error: DIR/tmemd.toml:1: donor.client: nobody may borrow memory
1| [donor]
 |  ^
hint: write [[donor.client]] on a line of its own, then its keys
`},
		{"donor", "[donor]\nlisten = [\"tcp://10.0.0.1:10810\", \"vsock://3\",\n\"unix://DIR/d.sock\",\n\"unix://DIR/d.sock\"]\nsize = \"17GiB\"\nself_sizing = 3\nmin_size = \"1MB\"\nsocket_mode = \"rw\"\n" + client, `
error: DIR/tmemd.toml:8: donor.socket_mode: "rw" is no mode
8| socket_mode = "rw"
 |               ^
hint: write three octal digits in quotes: "0660"
error: DIR/tmemd.toml:2: donor.listen: tcp://10.0.0.1:10810 needs TLS
2| listen = ["tcp://10.0.0.1:10810", "vsock://3",
 |           ^
hint: set certificate, key and client_ca in [donor.tls], or mode = "off" if the address is loopback
error: DIR/tmemd.toml:2: donor.listen: "vsock://3" has the port "", which is not a number
2| listen = ["tcp://10.0.0.1:10810", "vsock://3",
 |                                   ^
hint: write tcp://HOST:PORT, unix:///PATH, or vsock://any:PORT
error: DIR/tmemd.toml:4: donor.listen: unix://DIR/d.sock is there twice
4| "unix://DIR/d.sock"]
 | ^
hint: remove one of them
error: DIR/tmemd.toml:5: donor.size: "17GiB" is more than the RAM of this machine, 16 GiB
5| size = "17GiB"
 |        ^
hint: write a whole number with KiB, MiB, GiB, TiB (or K, M, G, T, the same), or a percentage of RAM: 512MiB, 8GiB, 20%
error: DIR/tmemd.toml:6: donor.self_sizing: "3" is neither on nor off
6| self_sizing = 3
 |               ^
hint: write on or off
error: DIR/tmemd.toml:7: donor.min_size: "1MB" has the unknown unit "MB"
7| min_size = "1MB"
 |            ^
hint: write a whole number with KiB, MiB, GiB, TiB (or K, M, G, T, the same), or a percentage of RAM: 512MiB, 8GiB, 20%
`},
		{"donor sizes", lends + "size = \"1GiB\"\nmin_size = \"2GiB\"\n" + client, `
error: DIR/tmemd.toml:4: donor.min_size: 2 GiB is more than size, 1 GiB
4| min_size = "2GiB"
 |            ^
hint: set min_size to less, or size to more
`},
		{"clients", lends + "[[donor.client]]\nquota = \"1GiB\"\n[[donor.client]]\nname = \"host1\"\n[[donor.client]]\nname = \"cert:host1\"\n" +
			"[[donor.client]]\nname = \"uid:0\"\nquota = \"17GiB\"\nweight = 0\n" + client + "[[donor.client]]\nname = \"gid:0\"\n", `
error: DIR/tmemd.toml:3: donor.client.name: no name is given
3| [[donor.client]]
 |   ^
hint: write cert:NAME (common name, DNS name or URI in a client's certificate), uid:NUMBER or gid:NUMBER (who connects to a Unix socket), cid:NUMBER (the virtual machine that connects over vsock), or ip:ADDRESS (over loopback without TLS)
error: DIR/tmemd.toml:6: donor.client.name: "host1" is no client
6| name = "host1"
 |        ^
hint: write cert:NAME (common name, DNS name or URI in a client's certificate), uid:NUMBER or gid:NUMBER (who connects to a Unix socket), cid:NUMBER (the virtual machine that connects over vsock), or ip:ADDRESS (over loopback without TLS)
error: DIR/tmemd.toml:8: donor.client.name: "cert:host1" fits nobody: no address is served where clients are known like that
8| name = "cert:host1"
 |        ^
hint: listen on an address where such a client can connect, or remove it
error: DIR/tmemd.toml:11: donor.client.quota: "17GiB" is more than the RAM of this machine, 16 GiB
11| quota = "17GiB"
  |         ^
hint: write a whole number with KiB, MiB, GiB, TiB (or K, M, G, T, the same), or a percentage of RAM: 512MiB, 8GiB, 20%
error: DIR/tmemd.toml:12: donor.client.weight: 0 is out of range
12| weight = 0
  |          ^
hint: write a number from 1 to 1048576
error: DIR/tmemd.toml:14: donor.client.name: there is a client uid:0 already
14| name = "uid:0"
  |        ^
hint: give each client one [[donor.client]]
error: DIR/tmemd.toml:16: donor.client.quota: no quota is given
16| [[donor.client]]
  |   ^
hint: write quota = "4GiB"
`},
		{"donor TLS off", "[donor]\nlisten = [\"tcp://127.0.0.1:10810\", \"tcp://0.0.0.0:10811\"]\n[donor.tls]\nmode = \"off\"\n[[donor.client]]\nname = \"ip:127.0.0.1\"\nquota = \"1GiB\"\n", `
error: DIR/tmemd.toml:2: donor.listen: tcp://0.0.0.0:10811 needs TLS, and it is off: it is not a loopback address
2| listen = ["tcp://127.0.0.1:10810", "tcp://0.0.0.0:10811"]
 |                                    ^
hint: set certificate, key and client_ca in [donor.tls]
`},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := peerFolder(t)
			_, err := parseRemote(t, dir, test.text)
			var out strings.Builder
			code := cli.Report(&out, err)
			got := strings.ReplaceAll(out.String(), dir, "DIR")
			want := strings.TrimPrefix(test.want, "\n")
			if got != want || code != cli.ExitUsage {
				t.Errorf("exit code %d and\n%s\nwant code %d and\n%s", code, got, cli.ExitUsage, want)
			}
		})
	}
}
