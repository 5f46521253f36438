package pagemap

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// mapping is a range of addresses of a process in which there is memory that
// belongs to no file.
type mapping struct{ start, end uint64 }

// parseMappings reads smaps: for each range a line with its addresses, then
// lines with amounts of memory. Ranges without anonymous memory are left out.
func parseMappings(smaps io.Reader) ([]mapping, error) {
	var mappings []mapping
	var current mapping
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		line := lines.Text()
		if amount, ok := strings.CutPrefix(line, "Anonymous:"); ok {
			if amount = strings.TrimSpace(amount); amount != "0 kB" && current.end > current.start {
				mappings = append(mappings, current)
			}
			continue
		}
		first, _, _ := strings.Cut(line, " ")
		low, high, ok := strings.Cut(first, "-")
		if !ok {
			continue
		}
		start, err1 := strconv.ParseUint(low, 16, 64)
		end, err2 := strconv.ParseUint(high, 16, 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("range of addresses %q: %w", first, err)
		}
		current = mapping{start, end}
	}
	return mappings, lines.Err()
}
