package cmd_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestInvariantsNameTests keeps frontswap/INVARIANTS.md true: each test that it
// names is there, in the folder that it says.
func TestInvariantsNameTests(t *testing.T) {
	text, err := os.ReadFile("../frontswap/INVARIANTS.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]string{} // the sources of a folder's tests
	err = filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		source, err := os.ReadFile(path)
		folder := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), "../")
		tests[folder] += string(source)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile("`([a-z/]+)`|\\b(Test[A-Z][A-Za-z]*)\\b")
	checked := 0
	for _, line := range strings.Split(string(text), "\n") {
		folder := "tier"
		for _, match := range names.FindAllStringSubmatch(line, -1) {
			if match[1] != "" {
				folder = match[1]
				continue
			}
			name := match[2]
			if name == "TestInvariantsNameTests" {
				continue
			}
			places := []string{folder}
			if name == "TestConformance" || name == "TestHosted" || name == "TestEphemeral" {
				places = []string{"backends/zcache"} // where the suite is run
			}
			for _, place := range places {
				if checked++; !strings.Contains(tests[place], "func "+name+"(") {
					t.Errorf("%s has no %s: %.60s…", place, name, line)
				}
			}
		}
	}
	if checked < 80 {
		t.Errorf("%d names were found in the page", checked)
	}
}
