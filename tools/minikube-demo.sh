#!/usr/bin/env bash
# The README's way to Minikube, tried out: build in the cluster's engine, apply, ask; then delete a
# pod and roll out another model under load, counting every request that fails.
#
#   tools/minikube-demo.sh            about five minutes; exits 1 when a request failed
#   tools/minikube-demo.sh --tools    only look whether all that it needs is there
#
# PORT=8000 is the local port of `kubectl port-forward`, SETTLE=10 the seconds of load around each
# change, LEAST=100 the requests below which nothing was shown. The cluster must run (`minikube start`);
# what the script put there it removes again.
set -euo pipefail
cd "$(dirname "$0")/.."

port=${PORT:-8000}
clients=4
pause=0.05           # seconds between two requests of a client
settle=${SETTLE:-10} # seconds of load before, between and after the changes
longest=900          # seconds: no client goes on after that
least=${LEAST:-100}  # requests, or the load was none
patient='{"age": 58, "sex": "male", "cp": "asymptomatic", "thalach": 118, "exang": 1, "oldpeak": 2.1}'

say() { echo "minikube-demo: $*" >&2; }

look_for_tools() {
  local missing=0 tool how
  while read -r tool how; do
    if ! command -v "$tool" >/dev/null; then
      say "$tool is missing: $how"
      missing=1
    fi
  done <<'TOOLS'
minikube https://minikube.sigs.k8s.io/docs/start/
kubectl https://kubernetes.io/docs/tasks/tools/
docker its client is enough, the engine is the cluster's: https://docs.docker.com/engine/install/
curl apt-get install curl, dnf install curl
TOOLS
  [ "$missing" = 0 ] || exit 1
  if ! minikube status >/dev/null 2>&1; then
    say 'no cluster runs: minikube start --cpus 2 --memory 4g'
    exit 1
  fi
}

look_for_tools
[ "${1:-}" != --tools ] || exit 0
PATH=$PATH:$PWD/.venv/bin
if [ ! -f models/current ] || ! command -v heartdx >/dev/null; then
  say 'there is no model yet: make pipeline'
  exit 1
fi
if kubectl get deployment heart-api >/dev/null 2>&1; then
  say 'heart-api is there already; remove it first: kubectl delete -f k8s/deployment.yaml'
  exit 1
fi

work=$(mktemp -d)
started=()
clean_up() {
  touch "$work/stop"
  for pid in ${started[@]+"${started[@]}"}; do
    if kill "$pid" 2>/dev/null; then wait "$pid" 2>/dev/null || continue; fi
  done
  say 'removing what was put into the cluster ...'
  kubectl delete --ignore-not-found -f k8s/deployment.yaml >&2
  docker image rm --force heart-api:next >/dev/null 2>&1 || say 'no image heart-api:next to remove'
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# In one step: a client that read a half-written name would count its answer to no phase.
enter() {
  echo "$1" >"$work/entering"
  mv "$work/entering" "$work/phase"
}

# One client: a line `PHASE STATUS` for every request, until it is stopped.
client() {
  local end=$((SECONDS + longest)) status
  while [ ! -e "$work/stop" ] && [ "$SECONDS" -lt "$end" ]; do
    status=$(curl --silent --output /dev/null --max-time 10 --write-out '%{http_code}' \
      -H 'content-type: application/json' -d "$patient" "$url/predict") || status=none
    echo "$(<"$work/phase") $status" >>"$work/answers.$1"
    sleep "$pause"
  done
}

# `ask PATH [curl's arguments]`, retried while the port opens.
ask() {
  local path=$1
  shift
  curl --fail --silent --show-error --retry 20 --retry-delay 1 --retry-connrefused "$@" \
    "http://127.0.0.1:$port$path"
}

digest_at() {
  curl --fail --silent --show-error "$1/health" |
    sed -n 's/.*"model_digest": *"\([0-9a-f]*\)".*/\1/p'
}

report() {
  awk '{ sent[$1]++; if ($2 != 200) { failed[$1]++; how[$1] = how[$1] " " $2 } }
    END { for (phase in sent)
      printf "%-9s %6d requests, %d failed%s\n", phase, sent[phase], failed[phase], how[phase] }' \
    "$work"/answers.* | sort
}

# -- as the README says ----------------------------------------------------------------------
eval "$(minikube docker-env)"
docker build -t heart-api . >&2
kubectl apply -f k8s/deployment.yaml >&2
kubectl rollout status deployment/heart-api --timeout=180s >&2
kubectl get pods >&2
kubectl get svc heart-api >&2
kubectl port-forward svc/heart-api "$port:8000" >"$work/forward" 2>&1 &
started+=("$!")
ask /health && echo
ask /metrics | awk '/^api_requests_total/ && !seen++'
ask /predict -H 'content-type: application/json' -d "$patient" && echo
# A forwarded port ends with its pod; the load goes through the Service, as clients' requests do.
minikube service heart-api --url >"$work/url" 2>"$work/tunnel" &
started+=("$!")
for _ in $(seq 60); do
  url=$(grep -m 1 -o '^http[^ ]*' "$work/url") || url=''
  [ -z "$url" ] || break
  sleep 1
done
if [ -z "$url" ]; then
  say "minikube gives no address: $(cat "$work/tunnel")"
  exit 1
fi
kubectl logs -f deploy/heart-api >"$work/log" 2>&1 &
started+=("$!")

# -- another model, in an image of one more layer --------------------------------------------
say 'training another model (a missed patient counts three times a false alarm) ...'
heartdx train --data data/raw/heart.csv --models-dir "$work/next/models" --harm-ratio 3 \
  --reports-dir "$work/next/reports" --cv-splits 2 --repeats 1 --no-tracking >&2
chmod -R a+rX "$work/next"
printf 'FROM heart-api:latest\nCOPY models /app/models\n' >"$work/next/Dockerfile"
printf 'reports\n**/*.joblib\n' >"$work/next/.dockerignore"
docker build -t heart-api:next "$work/next" >&2

# -- under load ------------------------------------------------------------------------------
before=$(digest_at "$url")
enter steady
running=()
for number in $(seq "$clients"); do
  client "$number" &
  running+=("$!")
done
started+=("${running[@]}")
sleep "$settle"
say 'deleting a pod ...'
enter kill
pod=$(kubectl get pods -l app.kubernetes.io/name=heart-api -o name | sed -n 1p)
kubectl delete "$pod" >&2
kubectl rollout status deployment/heart-api --timeout=180s >&2
sleep "$settle"
say 'rolling out the other model ...'
enter rollout
kubectl set image deployment/heart-api heart-api=heart-api:next >&2
kubectl rollout status deployment/heart-api --timeout=300s >&2
sleep "$settle"
touch "$work/stop"
wait "${running[@]}"
after=$(digest_at "$url")

report
sent=$(cat "$work"/answers.* | wc -l)
failed=$(awk '$2 != 200' "$work"/answers.* | wc -l)
echo "all       $sent requests, $failed failed; model ${before:0:12} -> ${after:0:12}"
if [ "$sent" -lt "$least" ]; then
  say "only $sent requests were sent, which shows nothing"
  exit 1
fi
if [ -z "$after" ] || [ "$before" = "$after" ]; then
  say 'the model did not change'
  exit 1
fi
if [ "$failed" != 0 ]; then
  say 'requests failed; the last lines of the service:'
  tail -n 20 "$work/log" >&2
  exit 1
fi
