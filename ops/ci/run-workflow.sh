#!/usr/bin/env bash
# Run a job of .github/workflows for real, with act, on this machine.
#
#   ops/ci/run-workflow.sh [JOB] [PYTHON]     default: test 3.12
#
# ARGS in the environment reaches the workflow's make targets, as it does on the command line.
#
# act executes the workflow's own steps in a copy of this tree. Where the pinned actions cannot be
# fetched, local stand-ins take their place: setup-python finds the asked Python on this machine
# and, stricter than the real one, wants a file for every pattern its cache goes by;
# upload-artifact copies into .tools/artifacts and wants a file in every path it is given.
set -euo pipefail
cd "$(dirname "$0")/../.."

job=${1:-test}
version=${2:-3.12}
workflow=$(grep --files-with-matches "^  $job:\$" .github/workflows/*.yml) || {
  echo "run-workflow: no job $job in .github/workflows" >&2
  exit 2
}
if [ "$job" = image ] && [ -z "${IN_ENGINE:-}" ]; then
  IN_ENGINE=1 exec ops/ci/docker-engine.sh run ops/ci/base-image.sh ops/ci/run-workflow.sh "$@"
fi
artifacts=$PWD/.tools/artifacts
stand_ins=$(mktemp -d)
trap 'rm -rf "$stand_ins"' EXIT

reference() { sed -n "s#.*uses: \(actions/$1@[0-9a-f]\{40\}\).*#\1#p" "$workflow" | head -1; }

uv=$(python3 -I tools/bootstrap.py --uv)
if [ ! -x .tools/act/bin/act ]; then
  "$uv" venv --quiet --no-project --clear .tools/act
  "$uv" pip install --quiet --python .tools/act/bin/python --require-hashes -r tools/act.lock.txt
fi

mkdir -p "$stand_ins/setup-python" "$stand_ins/upload-artifact"
cat >"$stand_ins/setup-python/action.yml" <<'ACTION'
name: stand-in for setup-python
inputs:
  python-version: {required: true}
  cache: {default: ''}
  cache-dependency-path: {default: ''}
runs:
  using: composite
  steps:
    - shell: bash
      env:
        VERSION: ${{ inputs.python-version }}
        KEYS: ${{ inputs.cache-dependency-path }}
      run: |
        for pattern in $KEYS; do [ -f "$pattern" ] || { echo "no file $pattern" >&2; exit 1; }; done
        dirname "$(python3 -I tools/bootstrap.py --which "$VERSION")" >>"$GITHUB_PATH"
ACTION
cat >"$stand_ins/upload-artifact/action.yml" <<'ACTION'
name: stand-in for upload-artifact
inputs:
  name: {required: true}
  path: {required: true}
  if-no-files-found: {default: warn}
runs:
  using: composite
  steps:
    - shell: bash
      env:
        NAME: ${{ inputs.name }}
        PATHS: ${{ inputs.path }}
      run: |
        mkdir -p "$ARTIFACTS/$NAME"
        for path in $PATHS; do
          [ -n "$(find "$path" -type f -print -quit)" ] || { echo "no file in $path" >&2; exit 1; }
          cp -r "$path" "$ARTIFACTS/$NAME/"
        done
ACTION

rm -rf "$artifacts"
event=push
[ "$workflow" = .github/workflows/ci.yml ] || event=workflow_dispatch
command=(.tools/act/bin/act "$event" --workflows "$workflow" --job "$job"
  --platform ubuntu-24.04=-self-hosted --no-cache-server
  --local-repository "$(reference setup-python)=$stand_ins/setup-python"
  --local-repository "$(reference upload-artifact)=$stand_ins/upload-artifact"
  --env "UV_CACHE_DIR=$("$uv" cache dir)"
  --env "PIP_CACHE_DIR=${PIP_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/pip}"
  --env "DOCKER_HOST=${DOCKER_HOST:-}" --env "ARTIFACTS=$artifacts" --env PY_COLORS=0
  --env "ARGS=${ARGS:-}")
made=()
case $job in
  test)
    command+=(--matrix "python:$version")
    for path in models/current reports/metrics.json mlruns/mlflow.db coverage/coverage.xml; do
      made+=("pipeline-python-$version/$path")
    done
    ;;
  image) made=(image-bill-of-materials/sbom/image.cdx.json) ;;
  supply) made=(supply-chain/sbom/serving.cdx.json supply-chain/licences.md) ;;
esac
"${command[@]}"
for path in "${made[@]}"; do
  [ -f "$artifacts/$path" ] || {
    echo "run-workflow: the job's artifacts hold no $path" >&2
    exit 1
  }
done
