package config

import (
	"time"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// NBD bounds what clients may make the NBD server do. 0 stands for the server's
// own default.
type NBD struct {
	MaxConnections   int
	MaxHandshakes    int
	Workers          int
	MaxOutstanding   int
	BufferSize       int64 // bytes
	HandshakeTimeout time.Duration
	StallTimeout     time.Duration

	Socket Socket
	TLS    TLS
}

const (
	maxNBDCount   = 1 << 16
	minNBDBuffers = 32 << 20 // one request of the largest size
)

func (p *parser) nbd() {
	f, c := &p.file.NBD, &p.config.NBD
	p.nbdCount("nbd.max_connections", f.MaxConnections, &c.MaxConnections)
	p.nbdCount("nbd.max_handshakes", f.MaxHandshakes, &c.MaxHandshakes)
	p.nbdCount("nbd.workers", f.Workers, &c.Workers)
	p.nbdCount("nbd.max_outstanding", f.MaxOutstanding, &c.MaxOutstanding)
	p.nbdTimeout("nbd.handshake_timeout", f.HandshakeTimeout, &c.HandshakeTimeout)
	p.nbdTimeout("nbd.stall_timeout", f.StallTimeout, &c.StallTimeout)
	p.nbdBuffers("nbd.buffer_size", f.BufferSize)
	p.socket("nbd", fileSocket{f.SocketMode, f.SocketOwner, f.SocketGroup}, &c.Socket)
	p.tls()
}

func (p *parser) nbdCount(key string, entry *int64, to *int) {
	if entry == nil {
		return
	}
	p.from(key, "")
	if *entry < 1 || *entry > maxNBDCount {
		p.reject(key, "write a number from 1 to 65536", "%d is out of range", *entry)
		return
	}
	*to = int(*entry)
}

func (p *parser) nbdTimeout(key string, entry *string, to *time.Duration) {
	if entry == nil {
		return
	}
	p.from(key, "")
	d, err := time.ParseDuration(*entry)
	if err != nil || d <= 0 {
		p.reject(key, "write a number with s, m or h, such as 10s", "%q is not a time", *entry)
		return
	}
	*to = d
}

func (p *parser) nbdBuffers(key string, entry literal) {
	if entry == "" {
		return
	}
	p.from(key, "")
	parsed, err := ParseSize(string(entry))
	if err != nil {
		p.reject(key, SizeSyntax, "%v", err)
		return
	}
	size := parsed.Of(p.host.RAM)
	if size < minNBDBuffers || size > p.host.RAM {
		p.reject(key, "make it "+cli.Bytes(minNBDBuffers)+" or more, and less than RAM", "%q is out of range", string(entry))
		return
	}
	p.config.NBD.BufferSize = size
}
