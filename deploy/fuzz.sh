#!/usr/bin/env bash
# Runs every fuzz target of the module for MINUTES each: deploy/fuzz.sh MINUTES
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=${1:-1}
grep -rlE '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u | while read -r folder; do
	grep -rhoE '^func (Fuzz[A-Za-z0-9_]+)' "$folder"/*_test.go | awk '{print $2}' | sort -u | while read -r target; do
		echo "== $folder $target"
		go test "$folder" -run '^$' -fuzz "^$target\$" -fuzztime "${minutes}m" -fuzzminimizetime 10x
	done
done
