#!/bin/sh
# Prints the package's copyright file: ours, and the licence of each module that is linked into the programs in a folder.
set -eu
cd "$(dirname "$0")/../.."
go=${GO:-go}
bin=$1
cat <<'END'
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: tmemd
Source: https://github.com/tmemd/tmemd

Files: *
Copyright: 2026 The tmemd authors
License: Apache-2.0

License: Apache-2.0
 On Debian systems the text of this licence is in
 /usr/share/common-licenses/Apache-2.0.
Comment:
 The programs are linked with Go's standard library and the modules below.
END
licences() { # $1 what it is, $2 folder
	found=
	for file in "$2"/LICENSE* "$2"/LICENCE* "$2"/COPYING* "$2"/NOTICE*; do
		test -f "$file" || continue
		found=yes
		printf ' .\n == %s, %s ==\n' "$1" "${file##*/}"
		if grep -q 'Version 2.0, January 2004' "$file"; then
			echo ' The Apache License 2.0, as above.'
			continue
		fi
		sed 's/^/ /; s/^[[:space:]]*$/ ./' "$file"
	done
	test -n "$found" || { echo "no licence of $1 in $2" >&2; exit 1; }
}
licences "Go" "$($go env GOROOT)"
for module in $($go version -m "$bin/tmemd" "$bin/tmemctl" | awk '$1 == "dep" { print $2 "@" $3 }' | LC_ALL=C sort -u); do
	licences "$module" "$($go list -m -f '{{.Dir}}' "$module")"
done
