#!/usr/bin/env bash
# Make sure the policy scanners are there, then run the command given after it with them first on
# its PATH.
#
#   ops/ci/scanners.sh [COMMAND...]
#
# checkov and the schemas of the Prometheus operator's kinds live in .tools/scanners, from
# tools/scanners.lock.txt with hashes, and never in .venv. trivy is one of ops/ci/supply-tools.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { echo "scanners: $*" >&2; }

folder=.tools/scanners
lock=tools/scanners.lock.txt
made_from=$folder/made-from.txt

install_tools() {
  local uv
  uv=$(python3 -I tools/bootstrap.py --uv)
  say 'installing the policy scanners into .tools/scanners ...'
  "$uv" venv --quiet --no-project --clear --python .venv/bin/python "$folder"
  "$uv" pip install --quiet --python "$folder/bin/python" --require-hashes -r "$lock"
  cp "$lock" "$made_from"
}

if [ ! -x .venv/bin/python ]; then
  say 'there is no .venv yet; run: make setup-dev'
  exit 1
fi
mkdir -p .tools
exec 9>.tools/scanners.lock
flock 9
cmp --silent "$lock" "$made_from" || install_tools
flock --unlock 9
exec 9>&-
[ $# = 0 ] || PATH="$PWD/$folder/bin:$PATH" exec "$@"
