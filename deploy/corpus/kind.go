package corpus

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
)

// kind is a kind of memory to sample.
type kind struct {
	name   string
	weight int      // its part of the corpus
	tools  []string // commands that have to be there

	// sample fills the collection, of which share pages are likely to be used.
	// folder is for files that programs need.
	sample func(ctx context.Context, c *collection, share int, folder string, random *rand.Rand) error
}

// allKinds returns the kinds in an order that never changes. The weights are
// those of a machine that runs services and builds software; 3 % of random
// bytes stand for memory that is compressed or encrypted.
func allKinds() []kind {
	return []kind{
		goCompile.kind("Go compile", 8, "go"),
		pythonService.kind("Python service", 6, "python3"),
		nodeService.kind("Node service", 5, "node"),
		cppCompile.kind("C++ compile", 5, "g++"),
		javaService.kind("Java service", 4, "java"),
		{name: "text", weight: 2, sample: sampleText},
		{name: "random", weight: 1, sample: sampleRandom},
	}
}

// missing says why the kind cannot be had on this machine, if it cannot.
func (k kind) missing() string {
	for _, tool := range k.tools {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Sprintf("%s is not installed", tool)
		}
	}
	return ""
}

// kind makes a kind of memory of the program.
func (p program) kind(name string, weight int, tools ...string) kind {
	return kind{name: name, weight: weight, tools: tools, sample: p.sample}
}
