#!/usr/bin/env bash
# A Docker engine for the tests of the image.
#
#   ops/ci/docker-engine.sh run COMMAND...   the reachable engine, else a private one for COMMAND
#   eval "$(ops/ci/docker-engine.sh start)"  a private engine that stays, for several commands
#   eval "$(ops/ci/docker-engine.sh stop)"   stop that one and remove all it held
#
# A private engine has its own data folder and socket and touches no other engine. It needs root;
# on Debian and Ubuntu docker.io is installed when it is missing. The client's plug-ins buildx and
# compose, which Debian 12 has not, come from Debian 13's packages.
set -euo pipefail

say() { echo "docker-engine: $*" >&2; }

install_engine() {
  command -v dockerd >/dev/null && command -v docker >/dev/null && return
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say 'no Docker engine is reachable and none can be installed without root on Debian;' \
      'start Docker, or name its socket with DOCKER_HOST'
    exit 1
  fi
  say 'installing docker.io ...'
  apt-get update -qq >&2
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -qq --no-install-recommends docker.io >&2
  # From Debian 13 on the client is a package of its own.
  command -v docker >/dev/null || apt-get install -y -qq --no-install-recommends docker-cli >&2
}

install_plugins() {
  local folder mirror name
  if docker buildx version >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; then
    return
  fi
  if [ "$(id -u)" != 0 ] || [ ! -f /etc/debian_version ]; then
    say "docker has no buildx or no compose, and they cannot be installed without root on Debian;" \
      'install both plug-ins (docs.docker.com/compose/install/linux)'
    exit 1
  fi
  say 'installing the plug-ins buildx and compose ...'
  mirror=$(awk '/^URIs:/ { print $2; exit }' /etc/apt/sources.list.d/*.sources 2>/dev/null ||
    awk '$1 == "deb" { print $2; exit }' /etc/apt/sources.list)
  folder=$(mktemp -d /tmp/heartdx-plugins.XXXXXX)
  chmod 755 "$folder"
  mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial" "$folder/got"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" \
    >"$folder/sources.list"
  cat >"$folder/apt.conf" <<CONF
Dir::Etc::sourcelist "$folder/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "$folder/lists";
Dir::Cache "$folder/cache";
APT::Sandbox::User "root";
CONF
  APT_CONFIG=$folder/apt.conf apt-get update -qq >&2
  (cd "$folder/got" && APT_CONFIG=$folder/apt.conf apt-get download -qq docker-buildx docker-compose >&2)
  mkdir -p /usr/local/lib/docker/cli-plugins
  for name in "$folder"/got/*.deb; do
    dpkg-deb -x "$name" "$folder/out"
  done
  cp "$folder"/out/usr/libexec/docker/cli-plugins/* /usr/local/lib/docker/cli-plugins/
  rm -rf "$folder"
}

# Starts an engine in a new folder; prints the folder.
start_engine() {
  install_engine
  install_plugins
  local folder
  folder=$(mktemp -d /tmp/heartdx-docker.XXXXXX)
  say "starting a private engine in $folder ..."
  dockerd --data-root "$folder/data" --exec-root "$folder/exec" -H "unix://$folder/docker.sock" \
    -p "$folder/docker.pid" >"$folder/log" 2>&1 </dev/null &
  for _ in $(seq 120); do
    if DOCKER_HOST="unix://$folder/docker.sock" docker info >/dev/null 2>&1; then
      echo "$folder"
      return
    fi
    sleep 0.5
  done
  say "the engine did not start within a minute; its last words:"
  tail -5 "$folder/log" >&2
  exit 1
}

stop_engine() {
  local folder=$1 pid
  pid=$(cat "$folder/docker.pid")
  kill "$pid"
  for _ in $(seq 60); do
    [ -d "/proc/$pid" ] || break
    sleep 0.5
  done
  # The engine leaves mounts of its network names behind.
  awk -v under="$folder/" 'index($2, under) == 1 { print $2 }' /proc/mounts | sort -r |
    xargs -r umount
  rm -rf "$folder"
}

case ${1:-} in
  run)
    shift
    if docker info >/dev/null 2>&1; then
      install_plugins
      exec "$@"
    fi
    folder=$(start_engine)
    trap 'stop_engine "$folder"' EXIT
    DOCKER_HOST="unix://$folder/docker.sock" "$@"
    ;;
  start)
    folder=$(start_engine)
    echo "export DOCKER_HOST=unix://$folder/docker.sock HEART_API_ENGINE=$folder"
    ;;
  stop)
    stop_engine "${HEART_API_ENGINE:?no engine was started from this shell}"
    echo 'unset DOCKER_HOST HEART_API_ENGINE'
    ;;
  *)
    sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
