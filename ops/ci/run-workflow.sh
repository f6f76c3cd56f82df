#!/usr/bin/env bash
# Run a job of .github/workflows/ci.yml for real, with act, on this machine.
#
#   ops/ci/run-workflow.sh [test|image] [PYTHON]     default: test 3.12
#
# act executes the workflow's own steps in a copy of this tree. Where the pinned actions cannot be
# fetched, local stand-ins take their place: setup-python finds the asked Python on this machine,
# upload-artifact copies into .tools/artifacts and, stricter than the real one, wants a file in
# every folder it is given.
set -euo pipefail
cd "$(dirname "$0")/../.."

job=${1:-test}
version=${2:-3.12}
workflow=.github/workflows/ci.yml
if [ "$job" = image ] && [ -z "${IN_ENGINE:-}" ]; then
  IN_ENGINE=1 exec ops/ci/docker-engine.sh run ops/ci/base-image.sh ops/ci/run-workflow.sh "$@"
fi
artifacts=$PWD/.tools/artifacts
stand_ins=$(mktemp -d)
trap 'rm -rf "$stand_ins"' EXIT

reference() { sed -n "s#.*uses: \(actions/$1@[0-9a-f]\{40\}\).*#\1#p" "$workflow" | head -1; }

if [ ! -x .tools/act/bin/act ]; then
  uv=$(python3 -I tools/bootstrap.py --uv)
  "$uv" venv --quiet --no-project --clear .tools/act
  "$uv" pip install --quiet --python .tools/act/bin/python --require-hashes -r tools/act.lock.txt
fi

mkdir -p "$stand_ins/setup-python" "$stand_ins/upload-artifact"
cat >"$stand_ins/setup-python/action.yml" <<'ACTION'
name: stand-in for setup-python
inputs:
  python-version: {required: true}
runs:
  using: composite
  steps:
    - shell: bash
      env:
        VERSION: ${{ inputs.python-version }}
      run: dirname "$(python3 -I tools/bootstrap.py --which "$VERSION")" >>"$GITHUB_PATH"
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
command=(.tools/act/bin/act push --workflows "$workflow" --job "$job"
  --platform ubuntu-24.04=-self-hosted --no-cache-server
  --local-repository "$(reference setup-python)=$stand_ins/setup-python"
  --local-repository "$(reference upload-artifact)=$stand_ins/upload-artifact"
  --env "ARTIFACTS=$artifacts" --env PY_COLORS=0)
case $job in
  test)
    "${command[@]}" --matrix "python:$version"
    for made in models/current reports/metrics.json mlruns/mlflow.db; do
      [ -f "$artifacts/pipeline-python-$version/$made" ] ||
        { echo "run-workflow: the job's artifact holds no $made" >&2; exit 1; }
    done
    ;;
  image)
    "${command[@]}" --env "DOCKER_HOST=${DOCKER_HOST:-}"
    ;;
  *)
    echo "run-workflow: no job $job (test, image)" >&2
    exit 2
    ;;
esac
