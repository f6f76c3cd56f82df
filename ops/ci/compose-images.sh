#!/usr/bin/env bash
# Make sure the engine has the foreign images of compose.yaml, then run the command given after it.
#
#   ops/ci/compose-images.sh [COMMAND...]
#
# Each is pulled where it can be. Where it cannot, Debian's packages of PostgreSQL, Prometheus and
# Alertmanager become stand-ins of the same names with the label heartdx.stand-in=true, for tests
# only. Debian has no Grafana: without a pull there is none, and the tests leave it out.
set -euo pipefail
cd "$(dirname "$0")/../.."

# The release whose versions compose.yaml names.
suite=forky

say() { echo "compose-images: $*" >&2; }

names() { sed -n 's/^ *image: *\([a-z/]*:[v0-9].*\)$/\1/p' compose.yaml; }

# One root file system with all three; each stand-in is a thin layer over it.
debian_root() {
  local mirror
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say 'images could not be pulled, and stand-ins need root on Debian'
    exit 1
  fi
  mirror=$(awk '/^URIs:/ { print $2; exit }' /etc/apt/sources.list.d/*.sources 2>/dev/null ||
    awk '$1 == "deb" { print $2; exit }' /etc/apt/sources.list)
  if ! command -v mmdebstrap >/dev/null; then
    say 'installing mmdebstrap ...'
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mmdebstrap >&2
  fi
  # shellcheck disable=SC2016  # $1 is the hook's own argument
  # Signatures are checked as ever; the date to which an unreleased suite is valid is not, since a
  # mirror may be some weeks behind.
  mmdebstrap --quiet --variant=minbase "$suite" - "$mirror" \
    --aptopt='Acquire::Check-Valid-Until "false"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --include=prometheus,prometheus-alertmanager,postgresql-18,wget \
    --customize-hook='rm -rf "$1"/var/lib/postgresql/* "$1"/var/lib/apt/lists/*' \
    2>/dev/null |
    docker import - heartdx-stand-in:debian >/dev/null
}

# stand_in NAME: a Dockerfile that gives the shared root that image's own user and entry point.
stand_in() {
  local folder
  folder=$(mktemp -d)
  cp ops/compose/postgres-stand-in.sh "$folder/"
  case $1 in
    postgres:*)
      cat >"$folder/Dockerfile" <<'DOCKERFILE'
FROM heartdx-stand-in:debian
COPY postgres-stand-in.sh /usr/local/bin/
ENV PGDATA=/var/lib/postgresql/18/docker PATH=/usr/lib/postgresql/18/bin:/usr/bin:/bin
RUN mkdir -p /var/lib/postgresql && chown postgres:postgres /var/lib/postgresql
ENTRYPOINT ["/usr/local/bin/postgres-stand-in.sh"]
DOCKERFILE
      ;;
    prom/prometheus:*)
      cat >"$folder/Dockerfile" <<'DOCKERFILE'
FROM heartdx-stand-in:debian
RUN mkdir -p /prometheus && chown 65534:65534 /prometheus
USER 65534
ENTRYPOINT ["/usr/bin/prometheus"]
DOCKERFILE
      ;;
    prom/alertmanager:*)
      cat >"$folder/Dockerfile" <<'DOCKERFILE'
FROM heartdx-stand-in:debian
RUN mkdir -p /alertmanager && chown 65534:65534 /alertmanager
USER 65534
ENTRYPOINT ["/usr/bin/prometheus-alertmanager"]
DOCKERFILE
      ;;
    *)
      say "$1 cannot be pulled here, and Debian has no package of it"
      rm -rf "$folder"
      return
      ;;
  esac
  docker build --quiet --label heartdx.stand-in=true --tag "$1" "$folder" >/dev/null
  rm -rf "$folder"
  say "$1 is a stand-in of Debian's $suite"
}

missing=()
for name in $(names); do
  if docker image inspect "$name" >/dev/null 2>&1; then
    say "$name is there"
  elif timeout 300 docker pull --quiet "$name" >/dev/null 2>&1; then
    say "$name was pulled"
  else
    missing+=("$name")
  fi
done
if [ "${#missing[@]}" != 0 ]; then
  docker image inspect heartdx-stand-in:debian >/dev/null 2>&1 || debian_root
  for name in "${missing[@]}"; do
    stand_in "$name"
  done
fi
[ $# = 0 ] || exec "$@"
