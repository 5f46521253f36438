package config

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzFile: no file panics, and one that is accepted gives a usable Config.
func FuzzFile(f *testing.F) {
	for _, text := range []string{
		"", "state_dir = \"/tmp/x\"\n", "[[export]]\nname='a'\nsize=5\n", "export=[{name='x', size='3M'},\n{name='y'}]",
		"[export]\nname='x'", "[nbd]\nworkers=-1", "[[backend]]\nkind='zcache'\nsize='10%'", "a.b.c = [[1],[{d=2}]]", "\"\\u00e9\" = 1",
		"[[backend]]\nkind='ramster'\ndonors=['a=tcp://127.0.0.1:1','vsock://2:5']\n[ramster.tls]\nmode='off'", "[donor]\nlisten=['unix:///tmp/x']\n[[donor.client]]\nname='uid:0'\nquota='1%'",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		path := filepath.Join(dir, "tmemd.toml")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		config, _, err := Parse([]string{"--config", path}, testHost(dir))
		if err != nil {
			return
		}
		if len(config.Exports) == 0 || len(config.Listen) == 0 || !filepath.IsAbs(config.StateDir) {
			t.Errorf("accepted %q as %+v", text, config)
		}
		for _, e := range config.Exports {
			if e.Size < minExportSize || !nameSyntax.MatchString(e.Name) || !filepath.IsAbs(e.Storage) {
				t.Errorf("accepted %q with export %+v", text, e)
			}
		}
	})
}
