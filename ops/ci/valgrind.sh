#!/usr/bin/env bash
# Make sure valgrind is there, with which the tests count instructions per request.
#
#   ops/ci/valgrind.sh
#
# On Debian and Ubuntu it is installed when it is missing, as root or through a sudo that asks
# for no password.
set -euo pipefail

say() { echo "valgrind: $*" >&2; }

if command -v valgrind >/dev/null && command -v callgrind_control >/dev/null; then
  exit 0
fi
as_root=()
if [ "$(id -u)" != 0 ]; then
  as_root=(sudo -n)
fi
if ! command -v apt-get >/dev/null || ! "${as_root[@]}" true 2>/dev/null; then
  say 'it is missing, and cannot be installed without root on Debian or Ubuntu; install it' \
    '(apt-get install valgrind, dnf install valgrind), then run this again'
  exit 1
fi
say 'installing valgrind ...'
"${as_root[@]}" apt-get update -qq >&2
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -qq --no-install-recommends valgrind >&2
