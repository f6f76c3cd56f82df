#!/usr/bin/env bash
# Build the image with the reachable Docker engine and write its bill of materials.
#
#   ops/ci/image-sbom.sh NAME
#
# Called by `make sbom-image`, which brings an engine and a base image.
set -euo pipefail
cd "$(dirname "$0")/../.."

make --no-print-directory image IMAGE="$1"
ops/ci/supply-tools.sh .venv/bin/python tools/sbom.py --image "$1"
