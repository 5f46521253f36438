package corpus

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// program is a program whose memory is sampled while its heap grows.
type program struct {
	// The heap at which it is stopped, in MiB, is floor (what is there before
	// anything of interest) and four times what is sampled of it, but at most
	// ceiling: beyond that a compile may be finished.
	floor, ceiling int

	// command prepares the program, in folder, and says how to start it.
	command func(ctx context.Context, folder string) (*exec.Cmd, error)
}

var (
	goCompile     = program{floor: 24, ceiling: 140, command: prepareGoCompile}
	cppCompile    = program{floor: 40, ceiling: 240, command: prepareCppCompile}
	pythonService = program{floor: 16, ceiling: 2048, command: interpreted("service.py", pythonSource, "python3")}
	nodeService   = program{floor: 40, ceiling: 1024, command: interpreted("service.js", nodeSource, "node")}
	javaService   = program{floor: 64, ceiling: 1024, command: interpreted("Service.java", javaSource, "java", "-Xmx2g")}
)

//go:embed programs/service.py
var pythonSource string

//go:embed programs/service.js
var nodeSource string

//go:embed programs/Service.java
var javaSource string

//go:embed programs/templates.cpp
var cppSource string

// interpreted prepares a program that an interpreter runs from its source.
func interpreted(file, source string, command ...string) func(context.Context, string) (*exec.Cmd, error) {
	return func(_ context.Context, folder string) (*exec.Cmd, error) {
		path := filepath.Join(folder, file)
		if err := os.WriteFile(path, []byte(source), 0o600); err != nil {
			return nil, err
		}
		return exec.Command(command[0], append(command[1:], path)...), nil
	}
}

// prepareGoCompile compiles what go/types imports, which the build cache mostly
// has, and returns the compile of go/types itself: pure Go, 1.5 s, 170 MiB.
func prepareGoCompile(ctx context.Context, folder string) (*exec.Cmd, error) {
	const pkg = "go/types"
	listed, err := output(ctx, folder, "go", "list", "-f",
		"{{.Dir}}\n{{join .GoFiles \" \"}}\n{{join .Imports \" \"}}", pkg)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(listed, "\n")
	if len(lines) < 3 {
		return nil, fmt.Errorf("go list %s answered %q", pkg, listed)
	}
	source, files, imports := lines[0], strings.Fields(lines[1]), strings.Fields(lines[2])

	exports, err := output(ctx, folder, "go", append([]string{"list", "-deps", "-export", "-f",
		"{{if .Export}}packagefile {{.ImportPath}}={{.Export}}{{end}}"}, imports...)...)
	if err != nil {
		return nil, err
	}
	config := filepath.Join(folder, "importcfg")
	if err := os.WriteFile(config, []byte(exports), 0o600); err != nil {
		return nil, err
	}
	compiler, err := output(ctx, folder, "go", "tool", "-n", "compile")
	if err != nil {
		return nil, err
	}
	command := exec.Command(strings.TrimSpace(compiler), append([]string{
		"-p", pkg, "-std", "-complete", "-importcfg", config, "-o", filepath.Join(folder, "types.a")}, files...)...)
	command.Dir = source
	return command, nil
}

// prepareCppCompile preprocesses a program and returns its compile by cc1plus
// itself: g++ would make that a grandchild, which nobody could wait for.
func prepareCppCompile(ctx context.Context, folder string) (*exec.Cmd, error) {
	source, input := filepath.Join(folder, "templates.cpp"), filepath.Join(folder, "templates.ii")
	if err := os.WriteFile(source, []byte(cppSource), 0o600); err != nil {
		return nil, err
	}
	if _, err := output(ctx, folder, "g++", "-O2", "-E", source, "-o", input); err != nil {
		return nil, err
	}
	compiler, err := output(ctx, folder, "g++", "-print-prog-name=cc1plus")
	if err != nil {
		return nil, err
	}
	return exec.Command(strings.TrimSpace(compiler), "-quiet", "-fpreprocessed", "-O2", input,
		"-o", filepath.Join(folder, "templates.s")), nil
}
