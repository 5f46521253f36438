package documents

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/cmd/internal/ctl"
)

// documents is what users read; paths from the top of the source.
var documents = []string{
	"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "deploy/README.md", "deploy/container/README.md", "deploy/kubernetes/README.md",
	"deploy/examples/README.md", "deploy/examples/*/README.md", "deploy/prometheus/RUNBOOK.md",
}

const top = "../../.."

// TestDocumentation: every command of ours that a document shows or names is one that the programs know, with its flags, settings and
// number of arguments; make has the targets, tests the names, the source the files, the daemon the settings and metrics that are named; and what looks like a
// configuration has keys that there are. What is typed as it stands is for deploy/readme, deploy/examples and deploy/vm.
func TestDocumentation(t *testing.T) {
	makefile := read(t, filepath.Join(top, "Makefile"))
	seen := map[string]int{}
	for _, pattern := range documents {
		files, err := filepath.Glob(filepath.Join(top, pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", pattern, files, err)
		}
		for _, file := range files {
			for _, m := range mentions(read(t, file)) {
				kind, err := m.check(makefile)
				if err != nil {
					t.Errorf("%s:%d: %s: %v", strings.TrimPrefix(file, top+"/"), m.line, strings.ReplaceAll(m.text, "\x00", " "), err)
				}
				seen[kind]++
			}
		}
	}
	t.Logf("checked: %v", seen)
	for kind, least := range map[string]int{"tmemctl": 120, "tmemd": 20, "make": 20, "go test": 1, "file": 30, "metric": 10, "setting": 20, "configuration": 8} {
		if seen[kind] < least {
			t.Errorf("%d of kind %s were found, want %d or more", seen[kind], kind, least)
		}
	}
}

// The check finds what is wrong.
func TestDocumentationMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"    # tmemctl backend lode zcache":               "there is no command",
		"    $ bin/tmemctl --stat-dir var status":         "unknown flag",
		"    # tmemctl export resize swap":                "takes",
		"    # tmemctl backend set zcache max_poll=1GiB":  "max_poll",
		"    # tmemctl client set vm1 wait=3":             "wait",
		"    east# systemctl stop x; tmemctl lend thawed": "there is no command",
		"    a = 1   # tmemctl export creat x":            "there is no command",
		"see `tmemctl disk list|sett`":                    "there is no command",
		"see `tmemctl donor add west`":                    "takes",
		"`tmemd --chek`":                                  "not defined",
		"`tmemd --check extra`":                           "takes no arguments",
		"    # tmemd donor --size 1GiB":                   "serves no swap",
		"    $ make testt":                                "no such target",
		"`make bench-nothing`":                            "no such target",
		"`deploy/nothing`":                                "no such file",
		"`self_sizeing=off`":                              "no such setting",
		"`tmemd_nothing_total`":                           "no such metric",
		"`go test -run TestNothing ./deploy/vm`":          "no such test",
		"\n    [[export]]\n    nam = \"swap\"\n":          "unknown key",
	} {
		found := ""
		for _, m := range mentions(text) {
			if _, err := m.check("test:\n"); err != nil {
				found += err.Error()
			}
		}
		if !strings.Contains(found, want) {
			t.Errorf("%q: %q is found to be wrong, want %q", text, found, want)
		}
	}
}

// Each package says in a file of that name what it is, but for programs of one line.
func TestPackagesHaveDoc(t *testing.T) {
	folders := map[string]bool{}
	if err := filepath.WalkDir(top, func(path string, entry os.DirEntry, err error) error {
		if entry != nil && entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && path != top {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".go") && !strings.Contains(path, "testdata") {
			folders[filepath.Dir(path)] = true
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"cmd", "cmd/tmemd", "cmd/tmemctl"} {
		delete(folders, filepath.Join(top, program))
	}
	if len(folders) < 50 {
		t.Errorf("only %d packages were found", len(folders))
	}
	for folder := range folders {
		text, err := os.ReadFile(filepath.Join(folder, "doc.go"))
		if err != nil || !regexp.MustCompile(`(?m)^// (Package|Command) \w+ `).Match(text) {
			t.Errorf("%s has no doc.go that says what it is: %v", strings.TrimPrefix(folder, top+"/"), err)
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// notSettings are words that look like settings.
var notSettings = map[string]string{
	"lru_gen":    "the kernel's",
	"to_storage": "of the admin API", "to_backends": "of the admin API",
}

// mention is a piece of a document that can be right or wrong.
type mention struct {
	line   int
	text   string
	inline bool // between backticks: a command may be without its arguments there
}

var (
	backtick = regexp.MustCompile("`([^`]+)`")
	begins   = regexp.MustCompile(`^[a-z./-]`)
	version  = regexp.MustCompile(`^v?\d`)
	file     = regexp.MustCompile(`^(cmd|deploy|backends|frontswap|cleancache|tier|nbd|metrics)/[\w./*-]+$`)
	metric   = regexp.MustCompile(`^tmemd_[a-z_]+$`)
	setting  = regexp.MustCompile(`^[a-z]+(_[a-z]+)+( ?=.*)?$`)
	tomlKey  = regexp.MustCompile(`^\[\[?[a-z_.]+\]\]?( +#.*)?$|^[a-z_]+ = \S`)
)

// mentions finds the pieces: commands in indented lines, what is between backticks, and indented blocks that are configurations.
func mentions(text string) (all []mention) {
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		if code, ok := strings.CutPrefix(lines[i], "    "); ok {
			if tomlKey.MatchString(code) && (i == 0 || lines[i-1] == "") {
				from, block := i, ""
				for ; i < len(lines) && (strings.HasPrefix(lines[i], "    ") || lines[i] == "" && i+1 < len(lines) && strings.HasPrefix(lines[i+1], "    ")); i++ {
					if strings.HasPrefix(lines[i], "    $ ") || strings.HasPrefix(lines[i], "    # ") {
						break
					}
					block += strings.TrimPrefix(lines[i], "    ") + "\n"
					if _, comment, _ := strings.Cut(lines[i], "# "); strings.HasPrefix(comment, "tmem") {
						all = append(all, commands(i+1, comment, false)...)
					}
				}
				i--
				all = append(all, mention{line: from + 1, text: block})
				continue
			}
			all = append(all, commands(i+1, code, false)...)
		}
	}
	// Between backticks, which may go on in the next line.
	for i, line := range lines {
		if strings.HasPrefix(line, "    ") {
			lines[i] = ""
		}
	}
	prose := strings.Join(lines, "\n")
	for _, at := range backtick.FindAllStringSubmatchIndex(prose, -1) {
		line, inside := strings.Count(prose[:at[2]], "\n")+1, strings.Join(strings.Fields(prose[at[2]:at[3]]), " ")
		if file.MatchString(inside) || metric.MatchString(inside) || setting.MatchString(inside) {
			all = append(all, mention{line: line, text: inside, inline: true})
		} else {
			all = append(all, commands(line, inside, true)...)
		}
	}
	return all
}

// commands finds ours in a line of shell.
func commands(line int, code string, inline bool) (all []mention) {
	for _, words := range shellWords(code) {
		for i, word := range words {
			name := filepath.Base(word)
			if name != "tmemctl" && name != "tmemd" && name != "make" && name != "go" || len(words) == i+1 || !begins.MatchString(words[i+1]) || version.MatchString(words[i+1]) {
				continue
			}
			if i > 0 && words[i-1] == "-t" || i > 0 && slices.Contains([]string{"podman", "nbd-client", "openssl", "chown"}, words[0]) || i > 1 && words[1] == "podman" {
				break
			}
			if (name == "go" || name == "make") && (word != name || i > 0 && !inline && !slices.Contains([]string{"$", "#", "time"}, words[i-1])) {
				continue // a word of a sentence
			}
			all = append(all, mention{line: line, text: strings.Join(append([]string{name}, words[i+1:]...), "\x00"), inline: inline})
			break
		}
	}
	return all
}

// shellWords splits a line at the operators of a shell, and these pieces into words. A comment ends it.
func shellWords(code string) (pieces [][]string) {
	var words []string
	var word strings.Builder
	quote, has := rune(0), false
	end := func() {
		if has {
			words = append(words, word.String())
		}
		word.Reset()
		has = false
	}
	for i, r := range code {
		switch {
		case quote != 0:
			if r == quote {
				quote = 0
			} else {
				word.WriteRune(r)
			}
		case r == '\'' || r == '"':
			quote, has = r, true
		case r == ' ' || r == '\t':
			end()
		case r == '#' && !has && i > 0 && len(words) > 0 && !regexp.MustCompile(`^[a-z0-9-]*$`).MatchString(words[0]), r == '#' && !has && len(words) > 1:
			end()
			return append(pieces, words)
		case r == '|' && has && i+1 < len(code) && code[i+1] != ' ': // one of several
			word.WriteRune(r)
		case strings.ContainsRune(";&|><()", r):
			end()
			pieces, words = append(pieces, words), nil
		default:
			word.WriteRune(r)
			has = true
		}
	}
	end()
	return append(pieces, words)
}

// check says of which kind the piece is, and what is wrong with it.
func (m mention) check(makefile string) (kind string, err error) {
	words := strings.Split(m.text, "\x00")
	switch {
	case strings.Contains(m.text, "\n"):
		return "configuration", checkConfiguration(m.text)
	case words[0] == "tmemctl":
		return words[0], anyOf(words[1:], func(words []string) error { return checkCtl(words, m.inline) })
	case words[0] == "tmemd":
		return words[0], checkDaemon(words[1:])
	case words[0] == "make":
		target := words[1]
		if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(target) + `:`).MatchString(makefile) {
			return "make", fmt.Errorf("no such target: %s", target)
		}
		return "make", nil
	case words[0] == "go":
		return "go " + words[1], checkTest(words[2:])
	case metric.MatchString(m.text):
		text, err := os.ReadFile(filepath.Join(top, "metrics", "testdata", "metrics.txt"))
		if err == nil && !regexp.MustCompile(`(?m)^`+m.text+`(_bucket)?[{ ]`).Match(text) {
			err = fmt.Errorf("no such metric: %s", m.text)
		}
		return "metric", err
	case setting.MatchString(m.text):
		key := regexp.MustCompile(`^[a-z_]+`).FindString(m.text)
		if notSettings[key] == "" && !regexp.MustCompile(`(?m)^#? ?`+key+` = `).MatchString(config.Reference) && !slices.Contains(keys["tmemctl backend set"], key) {
			return "setting", fmt.Errorf("no such setting: %s", key)
		}
		return "setting", nil
	default:
		if found, err := filepath.Glob(filepath.Join(top, m.text)); err != nil || len(found) == 0 {
			return "file", fmt.Errorf("no such file: %v", err)
		}
		return "file", nil
	}
}

// anyOf checks each of the commands that a|b|c stands for.
func anyOf(words []string, check func([]string) error) error {
	for i, word := range words {
		if choices := strings.Split(word, "|"); len(choices) > 1 && !strings.Contains(word, "=") {
			for _, choice := range choices {
				if err := anyOf(slices.Concat(words[:i], []string{choice}, words[i+1:]), check); err != nil {
					return err
				}
			}
			return nil
		}
	}
	return check(words)
}

// keys are the settings that commands take as KEY=VALUE.
var keys = map[string][]string{
	"tmemctl backend set": slices.Concat(config.SettingKeys("zcache"), config.SettingKeys("ramster")),
	"tmemctl export set":  {"writethrough"},
	"tmemctl disk set":    {"mode"},
	"tmemctl client set":  {"weight", "cap", "reservation"},
	"tmemctl lend set":    {"size"},
	"tmemctl donor add":   nil, // NAME=ADDRESS
}

// checkCtl asks tmemctl's own commands, without running one.
func checkCtl(words []string, inline bool) error {
	words = slices.DeleteFunc(slices.Clone(words), func(word string) bool { return word == "…" })
	c, rest, err := ctl.Tree("v0").Find(words)
	if err != nil {
		return err
	}
	if err := c.ParseFlags(rest); err != nil {
		return err
	}
	args := c.Flags().Args()
	named := inline && len(args) == 0 // and not shown
	if help, _ := c.Flags().GetBool("help"); help || named {
		return nil
	}
	if err := c.ValidateArgs(args); err != nil {
		return err
	}
	if c.HasSubCommands() && !inline {
		return fmt.Errorf("which command of %s?", c.CommandPath())
	}
	settings, _ := c.Flags().GetStringArray("set")
	if len(settings) > 0 {
		args = settings
	}
	for _, arg := range args {
		key, _, isSetting := strings.Cut(arg, "=")
		known, takes := keys[c.CommandPath()]
		if len(settings) > 0 {
			known, takes = keys["tmemctl backend set"], true
		}
		if isSetting && takes && known != nil && !slices.Contains(known, key) {
			return fmt.Errorf("%s has no setting %s, but %v", c.CommandPath(), key, known)
		}
	}
	return nil
}

// checkDaemon asks tmemd's own flags. The file of --config need not be there.
func checkDaemon(words []string) error {
	if words[0] == "check" {
		if len(words) > 1 && (len(words) != 3 || words[1] != "--state-dir") {
			return fmt.Errorf("tmemd check takes --state-dir, not %v", words[1:])
		}
		return nil
	}
	words = slices.Clone(words)
	for i := range len(words) - 1 {
		if words[i] == "--config" {
			words[i+1] = os.DevNull
		}
		if words[i] == "--listen" {
			words[i+1] = strings.ReplaceAll(words[i+1], "ADDRESS", "127.0.0.1")
		}
	}
	if slices.Equal(words, []string{"donor"}) || slices.Contains(words, os.DevNull) && words[0] == "donor" {
		return nil // lends nothing without a file
	}
	host, err := config.ThisHost([]string{"zcache", "ramster"})
	if err != nil {
		return err
	}
	_, _, err = config.Parse(words, host)
	return err
}

// checkTest looks for a test by the name that -run has.
func checkTest(words []string) error {
	for i, word := range words {
		if word != "-run" && word != "-bench" {
			continue
		}
		var text strings.Builder
		files, err := filepath.Glob(filepath.Join(top, words[len(words)-1], "*_test.go"))
		if err != nil {
			return err
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			text.Write(content)
		}
		for name := range strings.SplitSeq(words[i+1], "|") {
			if name == "^$" { // no test, but benchmarks
				continue
			}
			if !strings.Contains(text.String(), "\nfunc "+name+"(") {
				return fmt.Errorf("no such test in %s: %s", words[len(words)-1], name)
			}
		}
	}
	return nil
}

// checkConfiguration has the daemon's parser look for keys that there are not; whether the rest fits together is for a whole file.
func checkConfiguration(text string) error {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "tmemd.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	host, err := config.ThisHost([]string{"zcache", "ramster"})
	if err != nil {
		return err
	}
	if _, _, err := config.Parse([]string{"--config", path}, host); err != nil && regexp.MustCompile(`unknown key|has no setting|: expected |unknown unit`).MatchString(err.Error()) {
		return err
	}
	return nil
}
