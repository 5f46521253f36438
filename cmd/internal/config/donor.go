package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tmemd/tmemd/backends/ramster/donor"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/nbd"
)

// Donor is the memory that is lent to other hosts, and to whom.
type Donor struct {
	Listen     []Address // networks are unix, tcp and vsock
	Size       int64     // bytes
	SelfSizing bool
	MinSize    int64 // what SelfSizing leaves of it; 0 for the default
	Socket     Socket
	TLS        PeerTLS
	Clients    map[string]donor.Grant // by the name that a client has for sure
}

// DefaultDonorSize is how much is lent.
const DefaultDonorSize = "25%"

// ClientSyntax is the cure for the name of a client that there cannot be.
const ClientSyntax = "write cert:NAME (common name, DNS name or URI in a client's certificate), uid:NUMBER or gid:NUMBER " +
	"(who connects to a Unix socket), cid:NUMBER (the virtual machine that connects over vsock), or ip:ADDRESS (over loopback without TLS)"

// fileRamster and fileDonor are tables of the file as they are decoded.
type fileRamster struct {
	TLS struct {
		Mode        *string `toml:"mode"`
		Certificate *string `toml:"certificate"`
		Key         *string `toml:"key"`
		CA          *string `toml:"ca"`
	} `toml:"tls"`
}

type fileDonor struct {
	Listen      []string     `toml:"listen"`
	Size        literal      `toml:"size"`
	SelfSizing  literal      `toml:"self_sizing"`
	MinSize     literal      `toml:"min_size"`
	SocketMode  literal      `toml:"socket_mode"`
	SocketOwner literal      `toml:"socket_owner"`
	SocketGroup literal      `toml:"socket_group"`
	TLS         fileTLS      `toml:"tls"`
	Client      []fileClient `toml:"client"`
}

type fileClient struct {
	Name   *string `toml:"name"`
	Quota  literal `toml:"quota"`
	Weight *int64  `toml:"weight"`
}

// ramster reads what all backends of that kind share.
func (p *parser) ramster() {
	f := p.file.Ramster.TLS
	p.peerTLS(RamsterTLS, tlsEntry{f.Mode, f.Certificate, f.Key, f.CA}, &p.config.Ramster)
}

func (p *parser) donor() {
	f := p.file.Donor
	if f == nil {
		if p.config.DonorOnly {
			p.errs = append(p.errs, cli.Misuse("give --config a file with [donor] and one [[donor.client]] at least",
				"tmemd donor: nothing says to whom memory is lent"))
		}
		return
	}
	d := &Donor{Clients: map[string]donor.Grant{}}
	p.config.Donor = d
	p.socket("donor", fileSocket{f.SocketMode, f.SocketOwner, f.SocketGroup}, &d.Socket)
	p.peerTLS(DonorTLS, tlsEntry{f.TLS.Mode, f.TLS.Certificate, f.TLS.Key, f.TLS.ClientCA}, &d.TLS)
	p.donorListen(f.Listen, d)
	p.donorSize(f, d)
	if len(f.Client) == 0 {
		p.from("donor.client", "")
		p.blame("donor.client", "donor")
		p.blame("donor.client", "donor.tls")
		p.reject("donor.client", "write "+exampleOf("donor.client"), "nobody may borrow memory")
	}
	for i, client := range f.Client {
		p.donorClient("donor.client"+index(i), client, d)
	}
}

func (p *parser) donorListen(texts []string, d *Donor) {
	if len(texts) == 0 {
		p.from("donor.listen", "")
		p.blame("donor.listen", "donor")
		p.blame("donor.listen", "donor.tls")
		p.reject("donor.listen", "write "+exampleOf("donor.listen"), "no address to lend memory on")
	}
	for i, text := range texts {
		key := "donor.listen" + index(i)
		p.from(key, "")
		a, err := parseHostAddress(text, true)
		if err != nil {
			p.reject(key, "write tcp://HOST:PORT, unix:///PATH, or vsock://any:PORT", "%v", err)
			continue
		}
		if wrong := d.TLS.Check(a, DonorTLS); wrong != nil {
			p.reject(key, wrong.Hint, "%s", wrong.Problem)
		}
		if a.Network == "unix" && filepath.Dir(a.Address) != p.config.StateDir {
			p.needFolder(key, a.Address)
		}
		if (slices.Contains(d.Listen, a) || slices.Contains(p.config.Listen, a)) && !strings.HasSuffix(a.Address, ":0") {
			p.reject(key, "remove one of them", "%s is there twice", a)
		}
		d.Listen = append(d.Listen, a)
	}
}

func (p *parser) donorSize(f *fileDonor, d *Donor) {
	p.from("donor.size", "")
	text := DefaultDonorSize
	if f.Size != "" {
		text = string(f.Size)
	}
	var err error
	if d.Size, err = BackendSize(text, p.host.RAM); err != nil {
		p.reject("donor.size", SizeSyntax, "%v", err)
	}
	p.from("donor.self_sizing", "")
	d.SelfSizing = true
	if f.SelfSizing != "" {
		if d.SelfSizing, err = parseSwitch(string(f.SelfSizing), true); err != nil {
			p.reject("donor.self_sizing", "write on or off", "%v", err)
		}
	}
	if f.MinSize == "" {
		return
	}
	p.from("donor.min_size", "")
	d.MinSize, err = BackendSize(string(f.MinSize), p.host.RAM)
	switch {
	case err != nil:
		p.reject("donor.min_size", SizeSyntax, "%v", err)
	case d.Size > 0 && d.MinSize > d.Size:
		p.reject("donor.min_size", "set min_size to less, or size to more", "%s is more than size, %s",
			cli.Bytes(uint64(d.MinSize)), cli.Bytes(uint64(d.Size)))
	}
}

func (p *parser) donorClient(key string, f fileClient, d *Donor) {
	p.from(key+".name", "")
	p.blame(key+".name", key)
	if f.Name == nil {
		p.reject(key+".name", ClientSyntax, "no name is given")
		return
	}
	if wrong := d.checkClient(*f.Name); wrong != nil {
		p.reject(key+".name", wrong.Hint, "%s", wrong.Problem)
		return
	}
	grant := donor.Grant{Weight: 1}
	p.from(key+".quota", "")
	p.blame(key+".quota", key)
	if f.Quota == "" {
		p.reject(key+".quota", "write "+exampleOf("donor.client.quota"), "no quota is given")
	} else if size, err := BackendSize(string(f.Quota), p.host.RAM); err != nil {
		p.reject(key+".quota", SizeSyntax, "%s", strings.ReplaceAll(err.Error(), "a backend", "a client"))
	} else {
		grant.Quota = size
	}
	if f.Weight != nil {
		const most = 1 << 20
		p.from(key+".weight", "")
		if *f.Weight < 1 || *f.Weight > most {
			p.reject(key+".weight", fmt.Sprintf("write a number from 1 to %d", most), "%d is out of range", *f.Weight)
		}
		grant.Weight = *f.Weight
	}
	d.Clients[*f.Name] = grant
}

// checkClient says why a client may not have the name, or nil.
func (d *Donor) checkClient(name string) *cli.Error {
	const longest = 200
	kind, value, _ := strings.Cut(name, ":")
	has := func(network string) bool {
		return slices.ContainsFunc(d.Listen, func(a Address) bool { return a.Network == network })
	}
	if _, taken := d.Clients[name]; taken {
		return cli.Misuse("give each client one [[donor.client]]", "there is a client %s already", name)
	}
	rule := name
	switch kind {
	case "cid":
		rule = "uid:" + value // a number like those
	case "ip":
		rule = "cert:" + value
	}
	if _, err := ParseAccess([]string{rule}); err != nil || len(name) > longest || value == "*" {
		return cli.Misuse(ClientSyntax, "%q is no client", name)
	}
	reachable := map[string]bool{
		"cert": has("tcp") && d.TLS.Mode == nbd.TLSRequired, "ip": has("tcp") && d.TLS.Plain, "cid": has("vsock"), "uid": has("unix"), "gid": has("unix"),
	}
	if !reachable[kind] {
		return cli.Misuse("listen on an address where such a client can connect, or remove it", "%q fits nobody: no address is served where clients are known like that", name)
	}
	return nil
}

// Admits says whether one of the names is that of a client.
func (d *Donor) Admits(names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		_, known := d.Clients[name]
		return known
	})
}
