package config

import (
	"regexp"
	"testing"
)

var regexpBytes = regexp.MustCompile(`has \d+ bytes`)

func TestParseSize(t *testing.T) {
	tests := []struct {
		text string
		want Size
		err  string
	}{
		{"4096", Size{bytes: 4096}, ""},
		{"4096B", Size{bytes: 4096}, ""},
		{" 8 GiB ", Size{bytes: 8 << 30}, ""},
		{"8g", Size{bytes: 8 << 30}, ""},
		{"512M", Size{bytes: 512 << 20}, ""},
		{"64k", Size{bytes: 64 << 10}, ""},
		{"4194304TiB", Size{bytes: 1 << 62}, ""},
		{"20%", Size{percent: 20}, ""},
		{"1000 %", Size{percent: 1000}, ""},
		{"", Size{}, `"" is not a size`},
		{"GiB", Size{}, `"GiB" is not a size`},
		{"-1", Size{}, `"-1" is not a size`},
		{"1.5GiB", Size{}, `"1.5GiB" has the unknown unit ".5GiB"`},
		{"8GB", Size{}, `"8GB" has the unknown unit "GB"`},
		{"0", Size{}, `"0" is nothing`},
		{"0%", Size{}, `"0%" is nothing`},
		{"1001%", Size{}, `"1001%" is more than ten times the RAM`},
		{"4194305TiB", Size{}, `"4194305TiB" is too large`},
		{"18446744073709551615G", Size{}, `"18446744073709551615G" is too large`},
		{"18446744073709551616", Size{}, `"18446744073709551616" is too large`},
	}
	for _, test := range tests {
		got, err := ParseSize(test.text)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if got != test.want || text != test.err {
			t.Errorf("ParseSize(%q) = %+v, %q, want %+v, %q", test.text, got, text, test.want, test.err)
		}
	}
}

func TestSizeOf(t *testing.T) {
	tests := []struct {
		size Size
		ram  int64
		want int64
	}{
		{Size{bytes: 4096}, 1 << 30, 4096},
		{Size{percent: 100}, 1 << 30, 1 << 30},
		{Size{percent: 100}, 1<<30 + 12345, 1 << 30},
		{Size{percent: 20}, 1 << 30, 204 << 20},
		{Size{percent: 1000}, 1 << 50, 10 << 50},
		{Size{percent: 1}, 1 << 20, 1 << 20},
	}
	for _, test := range tests {
		if got := test.size.Of(test.ram); got != test.want {
			t.Errorf("%+v of %d is %d, want %d", test.size, test.ram, got, test.want)
		}
	}
}

// FuzzParseSize: no text panics, and a size is always something.
func FuzzParseSize(f *testing.F) {
	for _, text := range []string{"8GiB", "20%", "1.5G", "", "9999999999999T", " 3 m"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		size, err := ParseSize(text)
		if err == nil && size.Of(1<<34) <= 0 {
			t.Errorf("ParseSize(%q) is %d bytes", text, size.Of(1<<34))
		}
	})
}
