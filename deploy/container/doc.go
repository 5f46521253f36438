// Package container holds the definition of a container image, for serving other machines: README.md is for the reader. Nobody
// imports it.
//
// Its test has buildah make the image, on a stand-in for the image with Go, which cannot be fetched where tests run. Then it starts the
// image's command in the image's root, which is empty but for that, as the image's user without any capability, and is a client.
//
// Not promised: that the image with Go, as it is published, works the same; and any engine's way to run it.
package container
