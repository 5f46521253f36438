package tier

// needed is how many pages storage has a copy of that somebody may ask for: those that
// nobody else has, and those that it keeps beside a backend (writethrough).
func (d *Device) needed(s *Stats) int64 {
	n := s.Area.Storage
	if !d.empty {
		n += s.Area.None
	}
	if s.Writethrough != WritethroughOff {
		for _, held := range s.Area.Backends {
			n += held
		}
	}
	return max(n, 0)
}
