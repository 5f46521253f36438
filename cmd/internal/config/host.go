package config

import "github.com/tmemd/tmemd/cmd/internal/protect"

// hostSettings are for a daemon that the swap of its own host may go through.
func (p *parser) hostSettings() {
	const key = "host.protect"
	p.from(key, "")
	p.config.Protect, p.config.Touch = protect.Auto, p.file.Host.Touch
	if p.file.Host.Protect == nil {
		return
	}
	mode, err := protect.ParseMode(*p.file.Host.Protect)
	if err != nil {
		p.reject(key, "write auto (protect if there are rights to, and report what is refused), on (refuse to start without) or off", "%v", err)
		return
	}
	p.config.Protect = mode
}
