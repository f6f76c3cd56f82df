"""tools/minikube-demo.sh, its whole way, with a cluster that is played.

The script, its load, its counting and curl are real; ``minikube``, ``kubectl``, ``docker`` and the
training are stubs that write down how they were called, and the service is a small server that
loses requests when it is told to. On a cluster the script was never run: there is none here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from manifests_kit import ROOT

SCRIPT = "tools/minikube-demo.sh"
TOOLS = ("minikube", "kubectl", "docker", "heartdx")
BASICS = (
    "bash awk basename cat chmod curl dirname env grep mkdir mktemp mv rm sed seq sleep sort tail "
    "touch wc"
)
STUB = r"""#!/bin/bash
call="$(basename "$0") $*"
echo "$call" >>"$STATE/calls"
case $call in
  'minikube status') [ ! -e "$STATE/no-cluster" ] ;;
  'minikube docker-env') echo 'export DOCKER_HOST=tcp://192.0.2.1:2376' ;;
  'minikube service heart-api --url') echo "$URL"; echo "$$" >>"$STATE/pids"; exec sleep 600 ;;
  'kubectl get deployment heart-api') [ -e "$STATE/there" ] ;;
  'kubectl port-forward'* | 'kubectl logs'*) echo "$$" >>"$STATE/pids"; exec sleep 600 ;;
  'kubectl get pods -l'*) echo pod/heart-api-1; echo pod/heart-api-2 ;;
  'kubectl delete pod/heart-api-1')
    [ ! -e "$STATE/lossy" ] || { touch "$STATE/failing"; sleep 1; rm "$STATE/failing"; } ;;
  'kubectl set image'*) [ -e "$STATE/stuck" ] || echo 222222222222aaaa >"$STATE/digest" ;;
  'heartdx train'*) mkdir -p "$5/bundles"; echo 2222 >"$5/current" ;;
  'docker build'*) [ "$DOCKER_HOST" = tcp://192.0.2.1:2376 ] ;;
esac
"""


@dataclass
class Service:
    """Answers as the service does, from the state that the stubs leave; counts what it gave."""

    state: Path
    given: list[int] = field(default_factory=list)

    def handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                digest = (service.state / "digest").read_text().strip()
                metrics = 'api_requests_total{endpoint="/health"} 1'
                health = f'{{"status": "ok", "model_digest": "{digest}"}}'
                self.reply(200, metrics if self.path == "/metrics" else health)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                status = 503 if (service.state / "failing").exists() else 200
                service.given.append(status)
                self.reply(status, "{}")

            def reply(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                return

        return Handler


@dataclass(frozen=True)
class Ran:
    """A run of the script."""

    code: int
    output: str
    errors: str
    calls: list[str]
    pids: list[int]
    given: list[int]


def stage(folder: Path, *, without: tuple[str, ...] = ()) -> Path:
    """A copy of what the script needs, and a PATH with nothing but stubs and basics."""
    for name in (SCRIPT, "k8s/deployment.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    (folder / "models").mkdir()
    (folder / "models" / "current").write_text("1111\n")
    for name in ("state", "bin"):
        (folder / name).mkdir()
    (folder / "state" / "digest").write_text("111111111111aaaa\n")
    (folder / "state" / "calls").touch()
    for name in BASICS.split():
        found = shutil.which(name)
        if found and name not in without:
            (folder / "bin" / name).symlink_to(found)
    for name in set(TOOLS) - set(without):
        (folder / "bin" / name).write_text(STUB)
        (folder / "bin" / name).chmod(0o755)
    return folder


def run(folder: Path, *arguments: str) -> Ran:
    state = folder / "state"
    service = Service(state)
    server = ThreadingHTTPServer(("127.0.0.1", 0), service.handler())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = str(server.server_port)
    environment = {"PATH": str(folder / "bin"), "STATE": str(state), "PORT": port}
    environment |= {"SETTLE": "2", "LEAST": "20"}
    try:
        done = subprocess.run(
            [str(folder / SCRIPT), *arguments],
            env={**environment, "URL": f"http://127.0.0.1:{port}", "TMPDIR": str(folder)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        server.shutdown()
        server.server_close()
    calls = (state / "calls").read_text().replace(port, "8000").splitlines()
    pids = state / "pids"
    begun = [int(line) for line in pids.read_text().split()] if pids.exists() else []
    return Ran(done.returncode, done.stdout, done.stderr, calls, begun, service.given)


@pytest.fixture(scope="module")
def flawless(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run(stage(tmp_path_factory.mktemp("flawless")))


def counts(ran: Ran) -> dict[str, tuple[int, int]]:
    """Phase to requests and failed ones, as printed."""
    found = re.findall(r"^(\w+) +(\d+) requests, (\d+) failed", ran.output, re.MULTILINE)
    return {phase: (int(sent), int(failed)) for phase, sent, failed in found}


def test_a_rollout_without_loss_is_a_success_and_every_request_is_counted(flawless):
    found = counts(flawless)

    assert flawless.code == 0, flawless.errors
    assert found.keys() == {"steady", "kill", "rollout", "all"}
    assert {failed for _, failed in found.values()} == {0}
    # besides the load, one patient was asked about through the forwarded port
    assert found["all"][0] == len(flawless.given) - 1
    assert found["all"][0] == sum(found[phase][0] for phase in ("steady", "kill", "rollout"))
    assert "model 111111111111 -> 222222222222" in flawless.output


def test_a_lost_request_is_counted_where_it_was_lost_and_fails_the_demo(tmp_path):
    folder = stage(tmp_path)
    (folder / "state" / "lossy").touch()

    ran = run(folder)

    lost = ran.given.count(503)
    assert lost > 0
    assert ran.code == 1
    assert counts(ran)["kill"][1] == counts(ran)["all"][1] == lost
    assert counts(ran)["steady"][1] == counts(ran)["rollout"][1] == 0
    assert "requests failed" in ran.errors


def test_a_rollout_that_changes_no_model_fails_the_demo(tmp_path):
    folder = stage(tmp_path)
    (folder / "state" / "stuck").touch()

    ran = run(folder)

    assert ran.code == 1
    assert "the model did not change" in ran.errors


def test_its_commands_are_the_readmes_in_the_readmes_order(flawless):
    readme = (ROOT / "README.md").read_text()
    (block,) = re.findall(r'^```sh\n(eval "\$\(minikube docker-env\)".*?)^```', readme, re.M | re.S)
    told = [re.sub(r'^eval "\$\((.*)\)"$', r"\1", line) for line in block.splitlines()]

    called = [call for call in flawless.calls if call in told]

    assert list(dict.fromkeys(called)) == told


def test_it_removes_what_it_put_there_and_ends_what_it_started(flawless):
    assert "kubectl delete --ignore-not-found -f k8s/deployment.yaml" in flawless.calls
    assert "docker image rm --force heart-api:next" in flawless.calls
    assert len(flawless.pids) == 3
    assert [pid for pid in flawless.pids if psutil.pid_exists(pid)] == []


def test_everything_that_is_missing_is_named_at_once_with_where_to_get_it(tmp_path):
    ran = run(stage(tmp_path, without=("minikube", "kubectl", "docker")), "--tools")

    assert ran.code == 1
    for name in ("minikube", "kubectl", "docker"):
        assert re.search(rf"^minikube-demo: {name} is missing: .*https://", ran.errors, re.M)
    assert ran.calls == []


def test_with_all_tools_there_looking_for_them_is_all_it_does(tmp_path):
    ran = run(stage(tmp_path), "--tools")

    assert (ran.code, ran.errors, ran.calls) == (0, "", ["minikube status"])


def test_without_a_cluster_it_says_how_to_start_one(tmp_path):
    folder = stage(tmp_path)
    (folder / "state" / "no-cluster").touch()

    ran = run(folder)

    assert ran.code == 1
    assert "no cluster runs: minikube start" in ran.errors


@pytest.mark.parametrize(
    ("missing", "told"),
    [("model", "make pipeline"), ("free name", "kubectl delete -f k8s/deployment.yaml")],
)
def test_it_touches_nothing_when_it_cannot_do_it_all(tmp_path, missing, told):
    folder = stage(tmp_path)
    if missing == "model":
        (folder / "models" / "current").unlink()
    else:
        (folder / "state" / "there").touch()

    ran = run(folder)

    assert ran.code == 1
    assert told in ran.errors
    assert not [call for call in ran.calls if re.search("apply|delete|build", call)]


def test_the_target_of_make_looks_for_the_tools_before_it_sets_anything_up():
    recipe = re.search(r"^minikube-demo:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    assert recipe is not None

    assert recipe[0].splitlines()[0].split(" ##")[0] == "minikube-demo:"
    assert recipe[1].splitlines()[0] == "\t@tools/minikube-demo.sh --tools"
    assert recipe[1].splitlines()[-1] == "\ttools/minikube-demo.sh"


def test_the_script_is_executable():
    assert os.access(ROOT / SCRIPT, os.X_OK)
