package config

import (
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// Size is an amount of memory or storage as a human writes it: bytes with a
// binary unit, or a percentage of the machine's RAM.
type Size struct {
	bytes   uint64
	percent uint64 // of RAM; 0 if bytes is meant
}

// SizeSyntax is the cure for a size that ParseSize does not take.
const SizeSyntax = "write a whole number with KiB, MiB, GiB, TiB (or K, M, G, T, the same), or a percentage of RAM: 512MiB, 8GiB, 20%"

var sizeUnits = map[string]uint64{
	"": 1, "b": 1,
	"k": 1 << 10, "kib": 1 << 10,
	"m": 1 << 20, "mib": 1 << 20,
	"g": 1 << 30, "gib": 1 << 30,
	"t": 1 << 40, "tib": 1 << 40,
}

// ParseSize reads a size. Units are binary and their case does not matter; kB
// and MB, which would be decimal, are refused rather than guessed at.
func ParseSize(text string) (Size, error) {
	trimmed := strings.TrimSpace(text)
	end := 0
	for end < len(trimmed) && trimmed[end] >= '0' && trimmed[end] <= '9' {
		end++
	}
	unit := strings.ToLower(strings.TrimSpace(trimmed[end:]))
	if end == 0 {
		return Size{}, fmt.Errorf("%q is not a size", text)
	}
	number, err := strconv.ParseUint(trimmed[:end], 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return Size{}, fmt.Errorf("%q is too large", text)
	}
	if err != nil {
		return Size{}, fmt.Errorf("%q is not a size", text)
	}
	if number == 0 {
		return Size{}, fmt.Errorf("%q is nothing", text)
	}
	if unit == "%" {
		if number > 1000 {
			return Size{}, fmt.Errorf("%q is more than ten times the RAM", text)
		}
		return Size{percent: number}, nil
	}
	scale, known := sizeUnits[unit]
	if !known {
		return Size{}, fmt.Errorf("%q has the unknown unit %q", text, strings.TrimSpace(trimmed[end:]))
	}
	high, bytes := bits.Mul64(number, scale)
	if high != 0 || bytes > 1<<62 {
		return Size{}, fmt.Errorf("%q is too large", text)
	}
	return Size{bytes: bytes}, nil
}

// Of returns the size in bytes on a machine with that much RAM. A percentage is
// rounded down to a MiB, but not to nothing.
func (s Size) Of(ram int64) int64 {
	if s.percent == 0 {
		return int64(s.bytes)
	}
	const mib = 1 << 20
	percent := int64(s.percent)
	bytes := ram/100*percent + ram%100*percent/100 // ram*percent might not fit
	return max(bytes/mib*mib, mib)
}

// Bytes returns a size that is not a percentage.
func (s Size) Bytes() (bytes int64, absolute bool) { return int64(s.bytes), s.percent == 0 }
