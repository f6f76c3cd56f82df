#!/usr/bin/env bash
# Make sure the engine has the Dockerfile's base image, then run the command given after it.
#
#   ops/ci/base-image.sh [COMMAND...]
#
# The real image is pulled where it can be. Where it cannot, a stand-in is made of Debian's
# packages and a Python of the same version found on this machine, and tagged with the same name,
# so that the Dockerfile is built unchanged. A stand-in carries the label heartdx.stand-in=true;
# it is for tests only and is never published.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { echo "base-image: $*" >&2; }

base=$(awk 'toupper($1) == "FROM" { print $2; exit }' Dockerfile)
version=$(echo "$base" | sed -n 's/^python:\([0-9.]*\)-slim$/\1/p')

stand_in() {
  local prefix mirror suite folder
  if [ -z "$version" ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say "$base could not be pulled, and a stand-in needs root on Debian"
    exit 1
  fi
  prefix=$("$(python3 tools/bootstrap.py --which "$version")" -I -c 'import sys; print(sys.base_prefix)')
  mirror=$(awk '/^URIs:/ { print $2; exit }' /etc/apt/sources.list.d/*.sources 2>/dev/null ||
    awk '$1 == "deb" { print $2; exit }' /etc/apt/sources.list)
  suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
  if ! command -v mmdebstrap >/dev/null; then
    say 'installing mmdebstrap ...'
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mmdebstrap >&2
  fi
  folder=$(mktemp -d /tmp/heartdx-base.XXXXXX)
  # shellcheck disable=SC2064  # the folder is known now
  trap "rm -rf '$folder'" EXIT
  # As the real image does: no documents, no static library, no debug symbols, no bytecode.
  mmdebstrap --quiet --variant=minbase "$suite" - "$mirror" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --include=ca-certificates,libssl3,libffi8,libsqlite3-0,liblzma5,libbz2-1.0,libreadline8,libncursesw6,libuuid1,libexpat1 |
    tar -x -C "$folder"
  for part in bin lib include; do
    cp -a "$prefix/$part/." "$folder/usr/local/$part/"
  done
  rm -rf "$folder/usr/local/lib/python$version"/{test,idlelib,site-packages/*,config-*} \
    "$folder/usr/local/lib/python$version"/lib-dynload/_tkinter*.so \
    "$folder"/var/lib/apt/lists/* "$folder"/var/cache/apt/*
  cp -a "$prefix/lib/python$version/site-packages"/pip* "$folder/usr/local/lib/python$version/site-packages/"
  find "$folder/usr/local/lib" -name __pycache__ -prune -exec rm -rf {} +
  if command -v strip >/dev/null; then
    find "$folder/usr/local/lib" -name '*.so*' -type f -exec strip --strip-unneeded {} +
  fi
  grep -lrI "$prefix/bin/python" "$folder/usr/local/bin" |
    xargs -r sed -i "1s#$prefix/bin#/usr/local/bin#"
  # This machine's way to its package registry, as a site's own base image would carry it.
  [ ! -f /etc/pip.conf ] || cp /etc/pip.conf "$folder/etc/"
  cp /etc/ssl/certs/ca-certificates.crt "$folder/etc/ssl/certs/"
  chroot "$folder" ldconfig
  tar -C "$folder" -c . | docker import --change 'LABEL heartdx.stand-in=true' \
    --change 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin' \
    --change 'CMD ["python3"]' - "$base" >/dev/null
}

if docker image inspect "$base" >/dev/null 2>&1; then
  say "$base is there"
elif timeout 300 docker pull --quiet "$base" >/dev/null 2>&1; then
  say "$base was pulled"
else
  say "$base cannot be pulled here; making a stand-in of the same name ..."
  (stand_in)
  say "$base is a stand-in"
fi
[ $# = 0 ] || exec "$@"
