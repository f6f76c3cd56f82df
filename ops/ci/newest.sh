#!/usr/bin/env bash
# Do checks and tests still pass with the newest version of every dependency?
#
#   UV=/path/to/uv ops/ci/newest.sh [MAKE-TARGET...]      default: check test
#
# Works in a scratch clone of what is committed here, so that no lock of this tree changes, and
# removes it at the end. The first lines say which versions are newer than the locked ones.
set -euo pipefail
cd "$(dirname "$0")/../.."

[ $# != 0 ] || set -- check test
scratch=$(mktemp -d "${TMPDIR:-/tmp}/heartdx-newest.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
git clone --quiet --no-hardlinks . "$scratch/tree"
cd "$scratch/tree"

# Only what a set-up needs of this tree's environment.
unset MAKEFLAGS MAKELEVEL
UV="${UV:?name uv with UV}" tools/lock.sh --upgrade
echo 'newest: pins that differ from the locked ones:'
git diff --unified=0 -- requirements-dev.lock | sed -n 's/^[+-]\([a-z0-9][^ ]*==[^ ]*\).*/  &/p' |
  sed 's/ \\$//' | sort -k1.4
# Tests that clone this repository must find the new locks.
git -c user.name=newest -c user.email=newest@localhost commit --quiet --all --allow-empty \
  --message 'Newest versions of everything'
make "$@"
