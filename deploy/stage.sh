#!/bin/sh
# Lays out the build context of deploy/Dockerfile.
#
# usage: deploy/stage.sh BIN_DIR CONTEXT_DIR
#   BIN_DIR      holds smartproxy, networkproxy and proxyctl, statically linked
#   CONTEXT_DIR  is made anew; docker-compose.yml expects target/image
#
# Refuses a binary that needs an interpreter (the dynamic loader): in an image
# FROM scratch it would fail with "no such file or directory", which names the
# binary and means the loader.
set -eu
umask 022

fail() { echo "stage.sh: $*" >&2; exit 1; }

[ $# -eq 2 ] || fail "usage: deploy/stage.sh BIN_DIR CONTEXT_DIR"
bin_dir=$1 context=$2
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

# What is removed below is a directory this script made, or one that is empty.
if [ -e "$context" ] && [ ! -e "$context/Dockerfile" ]; then
    rmdir "$context" || fail "$context exists and is not a build context of ours"
fi
rm -rf "$context"
mkdir -p "$context/bin" "$context/run"
mkdir -m 0700 "$context/run/smartproxy"
cp "$here/Dockerfile" "$context/Dockerfile"

for name in smartproxy networkproxy proxyctl; do
    from=$bin_dir/$name to=$context/bin/$name
    [ -f "$from" ] || fail "$from is missing: build the static binaries first"
    if LC_ALL=C readelf -lW "$from" | grep -q 'INTERP'; then
        fail "$from is dynamically linked; build it with -C target-feature=+crt-static --target x86_64-unknown-linux-gnu"
    fi
    # Debug information is most of the file; symbols stay, for readable backtraces.
    strip --strip-debug -o "$to" "$from"
    chmod 0755 "$to"
done
