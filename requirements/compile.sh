#!/bin/sh
# Compiles every requirements/*.in to a lock: usage: compile.sh UV [uv's options, such as --upgrade]
# dev.lock first; the others are compiled under it, so that a package has one version everywhere.
set -eu
uv=$1
shift
cd "$(dirname "$0")"
compile() {
  name=$1
  shift
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-emit-find-links --no-header --no-annotate "$@" --output-file "$name.lock" "$name.in"
}
compile dev "$@"
for name in build demo producer scorer sink servers; do
  compile "$name" --constraint dev.lock
done
