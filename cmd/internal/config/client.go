package config

import (
	"fmt"
	"path/filepath"

	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/frontswap"
	"github.com/tmemd/tmemd/tier"
)

// Client is who exports belong to.
type Client struct {
	Name  string
	Quota frontswap.Quota
}

// Template is what exports that are made by a request may have in common.
type Template struct {
	Name         string
	Size         string // as a request has it, or empty
	Folder       string // of the storage, absolute; empty for the state folder
	Writethrough string // as a request has it, or empty
	Client       string // or empty
	Allow        []string
}

type filePoolClient struct {
	Name        *string `toml:"name"`
	Weight      *int64  `toml:"weight"`
	Cap         literal `toml:"cap"`
	Reservation literal `toml:"reservation"`
	Dedup       bool    `toml:"dedup"`
}

type fileTemplate struct {
	Name         *string  `toml:"name"`
	Size         literal  `toml:"size"`
	Folder       *string  `toml:"storage_folder"`
	Writethrough *string  `toml:"writethrough"`
	Client       *string  `toml:"client"`
	Allow        []string `toml:"allow"`
}

// WeightSyntax and ShareSyntax are cures.
const (
	WeightSyntax = "write a number from 1 to 65535"
	ShareSyntax  = "write a size of memory, such as 512MiB or 10%, or 0 for none"
)

// Weight checks a client's weight.
func Weight(n int64) (uint32, *cli.Error) {
	if n < 1 || n > frontswap.MaxWeight {
		return 0, cli.Misuse(WeightSyntax, "%d is out of range", n)
	}
	return uint32(n), nil
}

// ShareBytes reads a cap or a reservation.
func ShareBytes(text string, ram int64) (uint64, *cli.Error) {
	if text == "" || text == "0" {
		return 0, nil
	}
	size, err := ParseSize(text)
	if err != nil {
		return 0, cli.Misuse(ShareSyntax, "%v", err)
	}
	bytes := size.Of(ram)
	if bytes < 0 {
		return 0, cli.Misuse(ShareSyntax, "%q is too much", text)
	}
	return uint64(bytes), nil
}

func (p *parser) clients() {
	for i, entry := range p.file.Client {
		p.client(fmt.Sprintf("client[%d]", i), entry)
	}
}

func (p *parser) client(key string, entry filePoolClient) {
	c := Client{Quota: frontswap.Quota{Weight: 1, Dedup: entry.Dedup}}
	p.from(key+".name", "")
	p.blame(key+".name", key)
	switch {
	case entry.Name == nil:
		p.reject(key+".name", "write "+exampleOf("client.name"), "no name is given")
	case !nameSyntax.MatchString(*entry.Name):
		p.reject(key+".name", nameCure, "%q is not a name", *entry.Name)
	default:
		c.Name = *entry.Name
	}
	if c.Name != "" && p.knowsClient(c.Name) && c.Name != frontswap.DefaultClient {
		p.reject(key+".name", "give each [[client]] a name of its own", "there is a client %s already", c.Name)
	}
	if entry.Weight != nil {
		p.from(key+".weight", "")
		weight, wrong := Weight(*entry.Weight)
		if wrong != nil {
			p.reject(key+".weight", wrong.Hint, "%s", wrong.Problem)
		}
		c.Quota.Weight = weight
	}
	c.Quota.Cap = p.shareBytes(key+".cap", entry.Cap)
	c.Quota.Reservation = p.shareBytes(key+".reservation", entry.Reservation)
	if c.Quota.Cap > 0 && c.Quota.Reservation > c.Quota.Cap {
		p.reject(key+".reservation", "make it the cap or less", "the reservation is above the cap")
	}
	p.config.Clients = append(p.config.Clients, c)
}

func (p *parser) shareBytes(key string, text literal) uint64 {
	p.from(key, "")
	bytes, wrong := ShareBytes(string(text), p.host.RAM)
	if wrong != nil {
		p.reject(key, wrong.Hint, "%s", wrong.Problem)
	}
	return bytes
}

// knowsClient says whether there is a client of that name.
func (p *parser) knowsClient(name string) bool {
	for _, c := range p.config.Clients {
		if c.Name == name {
			return true
		}
	}
	return name == frontswap.DefaultClient
}

// clientOf reads whom an export, or a template, belongs to.
func (p *parser) clientOf(key string, name *string) string {
	p.from(key, "")
	if name == nil {
		return ""
	}
	if !p.knowsClient(*name) {
		p.reject(key, "add a [[client]] of that name", "there is no client %q", *name)
	}
	return *name
}

func (p *parser) templates() {
	for i, entry := range p.file.Template {
		p.template(fmt.Sprintf("template[%d]", i), entry)
	}
}

func (p *parser) template(key string, entry fileTemplate) {
	t := Template{Size: string(entry.Size)}
	p.from(key+".name", "")
	p.blame(key+".name", key)
	switch {
	case entry.Name == nil:
		p.reject(key+".name", "write "+exampleOf("template.name"), "no name is given")
	case !nameSyntax.MatchString(*entry.Name):
		p.reject(key+".name", nameCure, "%q is not a name", *entry.Name)
	default:
		t.Name = *entry.Name
	}
	if p.config.Template(t.Name) != nil {
		p.reject(key+".name", "give each [[template]] a name of its own", "there is a template %s already", t.Name)
	}
	p.from(key+".size", "")
	if t.Size != "" {
		if _, wrong := ExportSize(t.Size, p.host.RAM); wrong != nil {
			p.reject(key+".size", wrong.Hint, "%s", wrong.Problem)
		}
	}
	p.from(key+".storage_folder", "")
	if entry.Folder != nil {
		t.Folder = filepath.Clean(*entry.Folder)
		if !filepath.IsAbs(t.Folder) {
			p.reject(key+".storage_folder", "write the whole path, from the / on", "%q is not an absolute path", *entry.Folder)
		}
	}
	p.from(key+".writethrough", "")
	if entry.Writethrough != nil {
		t.Writethrough = *entry.Writethrough
		if _, err := tier.ParseWritethrough(t.Writethrough); err != nil {
			p.reject(key+".writethrough", WritethroughSyntax, "%q is no mode", t.Writethrough)
		}
	}
	t.Client = p.clientOf(key+".client", entry.Client)
	p.access(key+".allow", entry.Allow)
	t.Allow = entry.Allow
	p.config.Templates = append(p.config.Templates, t)
}

// Template returns the template of that name, or nil.
func (c *Config) Template(name string) *Template {
	for i := range c.Templates {
		if c.Templates[i].Name == name && name != "" {
			return &c.Templates[i]
		}
	}
	return nil
}
