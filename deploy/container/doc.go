// Package container holds the definition of a container image, for serving other machines: README.md is for the reader. Nobody
// imports it.
//
// Its test does by hand what the Containerfile says, as no container engine is at hand where tests run: it copies what is copied,
// runs what is run, and starts the image's command in the resulting root, which is empty otherwise, as the image's user without any
// capability.
//
// Not promised: that an engine's own rules are kept beyond the instructions that the test knows. It fails at others.
package container
