// Package kubernetes holds manifests for nodes that swap, and the test that they are what Kubernetes takes: README.md is for the
// reader. It is a module of its own, as the types of Kubernetes are in none of the programs.
//
// Not promised: that a cluster takes them as they are; none was at hand.
package kubernetes
