package config

// fileBackend is a [[backend]] as it is decoded. Which of the settings it may have is
// its kind's to say.
type fileBackend struct {
	Kind *string `toml:"kind"`
	Name *string `toml:"name"`
	Size literal `toml:"size"`

	MaxPool        literal  `toml:"max_pool"`
	SelfSizing     literal  `toml:"self_sizing"`
	MinPool        literal  `toml:"min_pool"`
	Codec          literal  `toml:"codec"`
	Incompressible literal  `toml:"incompressible"`
	Accept         literal  `toml:"accept_threshold_percent"`
	Staging        literal  `toml:"staging"`
	ColdAfter      literal  `toml:"cold_after"`
	ColdCPU        literal  `toml:"cold_cpu_percent"`
	ScrubPeriod    literal  `toml:"scrub_period"`
	Donors         []string `toml:"donors"`
	DonorsFile     literal  `toml:"donors_file"`
	DonorsService  literal  `toml:"donors_srv"`
	Copies         literal  `toml:"copies"`
	Deadline       literal  `toml:"deadline"`
	Patience       literal  `toml:"patience"`
	LostAfter      literal  `toml:"lost_after"`
	RepairRate     literal  `toml:"repair_rate"`
	Home           literal  `toml:"home"`
}

// placedSetting is a setting, and where it is below its backend.
type placedSetting struct {
	at string
	Setting
}

// settings are those that are in the file.
func (f fileBackend) settings() []placedSetting {
	var given []placedSetting
	for _, s := range []struct {
		key   string
		value literal
	}{
		{"max_pool", f.MaxPool}, {"self_sizing", f.SelfSizing}, {"min_pool", f.MinPool},
		{"codec", f.Codec}, {"incompressible", f.Incompressible}, {"accept_threshold_percent", f.Accept},
		{"staging", f.Staging}, {"cold_after", f.ColdAfter}, {"cold_cpu_percent", f.ColdCPU},
		{"scrub_period", f.ScrubPeriod},
		{"donors_file", f.DonorsFile}, {"donors_srv", f.DonorsService}, {"copies", f.Copies},
		{"deadline", f.Deadline}, {"patience", f.Patience}, {"lost_after", f.LostAfter}, {"repair_rate", f.RepairRate},
		{"home", f.Home},
	} {
		if s.value != "" {
			given = append(given, placedSetting{s.key, Setting{s.key, string(s.value)}})
		}
	}
	for i, d := range f.Donors {
		given = append(given, placedSetting{"donors" + index(i), Setting{"donors", d}})
	}
	return given
}
