#!/usr/bin/env bash
# Make sure Prometheus and Alertmanager are there (prometheus, promtool, alertmanager, amtool),
# then run the command given after it with them on its PATH.
#
#   ops/ci/prometheus.sh [COMMAND...]
#
# Where one is missing, Debian's or Ubuntu's packages are unpacked into .tools/prometheus, not
# installed: neither a user nor a service comes with them, so nothing starts, now or at boot. Their
# Alertmanager reads its templates from /usr/share/prometheus only; these are copied there.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { echo "prometheus: $*" >&2; }

folder=.tools/prometheus
programs=(prometheus promtool alertmanager amtool)
templates=/usr/share/prometheus/alertmanager
as_root=()
if [ "$(id -u)" != 0 ]; then
  as_root=(sudo -n)
fi

have_all() {
  local program
  for program in "${programs[@]}"; do
    command -v "$program" >/dev/null || return 1
  done
  [ ! -x "$folder/bin/alertmanager" ] || [ -f "$templates/default.tmpl" ]
}

# apt knows of a package only once its lists were fetched, which takes root.
fetch() {
  apt-get download -qq prometheus prometheus-alertmanager 2>/dev/null && return
  "${as_root[@]}" apt-get update -qq >&2
  apt-get download -qq prometheus prometheus-alertmanager >&2
}

unpack() {
  local package
  work=$(mktemp -d "$PWD/.tools/prometheus-new.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  # apt fetches as a user of its own where it can, and says so where it cannot.
  chmod 777 "$work"
  if ! (cd "$work" && fetch); then
    say 'the packages could not be fetched; see above, or install prometheus and alertmanager'
    exit 1
  fi
  mkdir "$work/bin"
  for package in "$work"/*.deb; do
    dpkg-deb -x "$package" "$work/out"
  done
  mv "$work"/out/usr/bin/{prometheus,promtool,amtool} "$work/bin/"
  mv "$work/out/usr/bin/prometheus-alertmanager" "$work/bin/alertmanager"
  if [ ! -f "$templates/default.tmpl" ]; then
    "${as_root[@]}" install -D -m 644 -t "$templates" "$work/out$templates"/*.tmpl || {
      say "the templates could not be copied to $templates, which needs root"
      exit 1
    }
  fi
  rm -rf "$folder"
  mkdir "$folder"
  mv "$work/bin" "$folder/bin"
  rm -rf "$work" # the last line replaces this shell, and its trap with it
}

PATH="$PWD/$folder/bin:$PATH"
if ! have_all; then
  if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    say "${programs[*]}: one is missing, and this is not Debian or Ubuntu; install prometheus and" \
      'alertmanager (prometheus.io/download) so that all four are on the PATH, then run this again'
    exit 1
  fi
  mkdir -p .tools
  exec 9>.tools/prometheus.lock
  flock 9
  if ! have_all; then
    say 'unpacking Prometheus and Alertmanager into .tools/prometheus ...'
    unpack
  fi
  flock --unlock 9
  exec 9>&-
fi
[ $# = 0 ] || PATH="$PATH" exec "$@"
