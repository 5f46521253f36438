//go:build interop

package interop

import (
	"bytes"
	"image/png"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// picturesVariable names a folder where screenshots of the status page go, to be looked at.
const picturesVariable = "TMEMD_PICTURES"

// TestStatusPage opens the page in a browser while pages come and go, and a backend is
// unloaded: the numbers on it are the daemon's, they move, plots are drawn, in light and dark,
// on a desk and on a phone, and the browser has nothing to complain about.
func TestStatusPage(t *testing.T) {
	d := start(t, t.TempDir(), settings(t, `
[[export]]
name = "swap"
size = "64MiB"
[[export]]
name = "scratch"
size = "16MiB"
[[backend]]
kind = "zcache"
size = "12MiB"
self_sizing = "off"
`))
	url := strings.TrimSuffix(d.status().Metrics, "metrics")
	c := d.dial("unix")
	load := startChurn(c, 0, 6000)
	b := startBrowser(t, 1280, 1700)
	b.open(url)
	awaitPoints := func(n int) {
		t.Helper()
		eventually(t, "the page has polled", func() bool {
			points, _ := strconv.Atoi(b.eval("document.body?.dataset.points"))
			return points >= n
		})
	}
	awaitPoints(4)
	if got := b.text("#health"); got != "serving" {
		t.Errorf("health %q", got)
	}
	for selector, pattern := range map[string]string{
		"#tiles":        `In backends [1-9][\d.]* [KM]iB .*Ratio [1-9]\.\d\d.*Swapped out [1-9][\d.]* [KMG]iB/s.*Swapped in [1-9][\d.]* [KMG]iB/s.*Read p99 [\d.]+ [nµm]s`,
		"#where-legend": `zcache [1-9][\d.]* MiB storage`,
		"#backends":     `zcache active .*Data [1-9][\d.]* MiB.*Store [\d.]+ [nµm]s.*Load [\d.]+ [nµm]s`,
		"#exports":      `swap 64\.0 MiB`,
		"#memory":       `zcache`,
		"#about":        `up \d+ s`,
	} {
		if got := b.text(selector); !regexp.MustCompile(pattern).MatchString(got) {
			t.Errorf("%s reads %q, which does not match %s", selector, got, pattern)
		}
	}
	before := b.text("#tiles")
	picture := func(name string) {
		t.Helper()
		data := b.screenshot()
		if folder := os.Getenv(picturesVariable); folder != "" {
			if err := os.WriteFile(filepath.Join(folder, name+".png"), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if colors := colorsOf(t, data); colors < 40 {
			t.Errorf("%s has %d colors: nothing is drawn", name, colors)
		}
	}
	picture("light")

	d.control("backend", "unload", "zcache")
	eventually(t, "the backend is gone from the page", func() bool { return b.text("#backends") == "" })
	if after := b.text("#tiles"); after == before || !strings.Contains(after, "In backends 0 B") {
		t.Errorf("the numbers did not move: %s", after)
	}
	d.control("backend", "load", "zcache", "--size", "12MiB")
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": "dark"}}}, nil)
	points, _ := strconv.Atoi(b.eval("document.body.dataset.points"))
	awaitPoints(points + 3)
	picture("dark")
	b.resize(390, 2600)
	awaitPoints(points + 5)
	picture("phone")
	if wide := b.eval("document.documentElement.scrollWidth"); wide != "390" {
		t.Errorf("a phone has to scroll sideways: the page is %s wide", wide)
	}
	for _, fault := range b.faults {
		t.Errorf("the browser complains: %s", fault)
	}
	load.stop(t)
	if err := c.leave(); err != nil {
		t.Error(err)
	}
	d.stop()
	eventually(t, "the page says that nobody answers", func() bool {
		return b.text("#health") == "no answer" && strings.HasPrefix(b.text("#alert"), "The daemon does not answer")
	})
}

// colorsOf counts the colors of a picture.
func colorsOf(t *testing.T, data []byte) int {
	t.Helper()
	p, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	colors := map[[3]uint32]bool{}
	for y := p.Bounds().Min.Y; y < p.Bounds().Max.Y; y++ {
		for x := p.Bounds().Min.X; x < p.Bounds().Max.X; x++ {
			r, g, b, _ := p.At(x, y).RGBA()
			colors[[3]uint32{r, g, b}] = true
		}
	}
	return len(colors)
}

// TestNoStatusPage: without the page there are metrics and probes, and nothing else.
func TestNoStatusPage(t *testing.T) {
	d := start(t, t.TempDir(), "--size", "4MiB", "--status-page=false")
	url := strings.TrimSuffix(d.status().Metrics, "metrics")
	for path, want := range map[string]int{"": 404, "status.json": 404, "page.js": 404, "metrics": 200, "healthz": 200, "readyz": 200} {
		answer, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("GET /%s: %d, want %d", path, answer.StatusCode, want)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	d.stop()
}
