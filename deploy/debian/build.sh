#!/bin/sh
# Makes tmemd_VERSION_ARCH.deb of tmemd and tmemctl: deploy/debian/build.sh VERSION [FOLDER [INTO]], with the folder of the two
# programs, bin, and the one for the package, dist. `make deb` calls it. The same source, Go and dpkg give the same file.
set -eu
cd "$(dirname "$0")/../.."
given=$1
bin=${2:-bin}
into=${3:-dist}
here=deploy/debian
go=${GO:-go}

# A version of Debian's begins with a digit and has no dash: v0.2.0-3-gabc is 0.2.0+3.gabc, and a bare commit comes before any release.
case $given in
v[0-9]* | [0-9]*.[0-9]*) upstream=$(printf %s "${given#v}" | sed 's/-/+/; s/-/./g') ;;
*) upstream=0~git.$(printf %s "$given" | tr -c 'a-zA-Z0-9.+~' .) ;;
esac
version=$upstream-1
arch=$(dpkg --print-architecture)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

umask 022
root=$(mktemp -d)
chmod 755 "$root"
trap 'rm -rf "$root"' EXIT
doc=$root/usr/share/doc/tmemd
mkdir -p "$root/DEBIAN" "$doc"

install -D -m 755 -t "$root/usr/bin" "$bin/tmemd" "$bin/tmemctl"
install -D -m 644 -t "$root/usr/lib/systemd/system" deploy/systemd/*.service
install -D -m 644 deploy/systemd/tmemd.sysusers "$root/usr/lib/sysusers.d/tmemd.conf"
install -D -m 644 deploy/systemd/tmemd.tmpfiles "$root/usr/lib/tmpfiles.d/tmemd.conf"
install -D -m 644 cmd/internal/config/reference.toml "$root/etc/tmemd/tmemd.toml"
install -D -m 644 $here/tmemd.default "$root/etc/default/tmemd"
install -D -m 644 $here/lintian-overrides "$root/usr/share/lintian/overrides/tmemd"

mkdir -p "$root/usr/share/bash-completion/completions" "$root/usr/share/zsh/vendor-completions" \
	"$root/usr/share/fish/vendor_completions.d" "$root/usr/share/man/man8"
"$bin/tmemctl" completion bash >"$root/usr/share/bash-completion/completions/tmemctl"
"$bin/tmemctl" completion zsh >"$root/usr/share/zsh/vendor-completions/_tmemctl"
"$bin/tmemctl" completion fish >"$root/usr/share/fish/vendor_completions.d/tmemctl.fish"
CGO_ENABLED=0 $go run ./cmd/internal/manpages "$upstream" "$root/usr/share/man/man8"

install -m 644 README.md "$doc/"
cp -r deploy/examples "$doc/examples"
find "$doc/examples" -name '*.go' -delete
$here/copyright.sh "$bin" >"$doc/copyright"
cp CHANGELOG.md "$doc/changelog"
cat >"$doc/changelog.Debian" <<END
tmemd ($version) unstable; urgency=medium

  * Built from the source of tmemd $given; see changelog for what is new.

 -- The tmemd authors <tmemd@users.noreply.github.com>  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
END
gzip -9n "$doc/changelog" "$doc/changelog.Debian" "$root"/usr/share/man/man8/*

for script in postinst prerm postrm; do
	install -m 755 "$here/$script" "$root/DEBIAN/$script"
done
find "$root/etc" -type f -printf '/%P\n' | sed 's#^/#/etc/#' | LC_ALL=C sort >"$root/DEBIAN/conffiles"
(cd "$root" && find usr etc -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)
cat >"$root/DEBIAN/control" <<END
Package: tmemd
Version: $version
Architecture: $arch
Maintainer: The tmemd authors <tmemd@users.noreply.github.com>
Installed-Size: $(du -k -s --apparent-size --exclude=DEBIAN "$root" | cut -f1)
Depends: systemd | systemd-standalone-sysusers | systemd-sysusers
Suggests: nbd-client, qemu-utils
Section: admin
Priority: optional
Homepage: https://github.com/tmemd/tmemd
Description: transcendent memory for Linux swap, in user space
 A host attaches a swap device over NBD. Every page that its kernel swaps out
 passes through tmemd, which compresses it into memory while there is room and
 writes it to a file or block device otherwise. The compressed memory, or that
 of other hosts, is loaded, replaced and unloaded while the device swaps.
 .
 This package has the daemon, tmemctl to look after it, and systemd units for
 the daemon and for devices that swap. None is enabled by itself.
END
find "$root" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
mkdir -p "$into"
dpkg-deb --root-owner-group -b "$root" "$into/tmemd_${version}_$arch.deb"
