"""The image, built by a real engine and run as k8s/deployment.yaml runs it.

Called by `make test-image`, which brings an engine and a base image when the machine has none.
The container gets the manifest's user, read-only root, dropped capabilities, limits, settings and
volumes; the manifest's probes are asked as the kubelet would.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from image_kit import BOX, GRACE, POD, ROOT, Container, docker, mebibytes, started

from heartdx import signing
from heartdx.serve import create_app
from heartdx.settings import Settings

RUN = "docker run -p 8000:8000 heart-api"
PATIENTS = [
    {"age": 63, "sex": "male", "cp": "typical angina"},
    {"age": 67, "sex": 1, "cp": 4, "trestbps": 160, "chol": 286, "fbs": 0, "restecg": 2}
    | {"thalach": 108, "exang": 1, "oldpeak": 1.5, "slope": 2, "ca": 3, "thal": 3},
    {"age": 41, "sex": "female", "cp": "atypical angina", "chol": None, "exang": 0}
    | {"thalach": 172, "oldpeak": 1.4},
]


@pytest.fixture(scope="module")
def container(image) -> Iterator[Container]:
    made = started(image)
    yield made
    docker("rm", "--force", made.name)


@pytest.fixture(scope="module")
def image_facts(image) -> Any:
    return json.loads(docker("inspect", image).stdout)[0]


def test_the_runbooks_own_command_serves_on_port_8000(image):
    running = subprocess.Popen(RUN.split(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        health = answer("http://127.0.0.1:8000/health", running)
        left_behind = docker("ps", "--latest", "--quiet").stdout.strip()
    finally:
        running.send_signal(signal.SIGINT)
        said = running.communicate(timeout=GRACE)[0].decode()
    docker("rm", left_behind)

    assert health.status_code == 200, said


def answer(url: str, running: subprocess.Popen[bytes]) -> httpx2.Response:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and running.poll() is None:
        try:
            return httpx2.get(url, timeout=5)
        except httpx2.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"nothing answers at {url}; is the port taken?")


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_a_probe_of_the_manifest_is_answered(container, probe):
    assert container.get(BOX[probe]["httpGet"]["path"]).status_code == 200


def test_health_and_metrics_answer(container):
    health, metrics = container.get("/health"), container.get("/metrics")

    assert health.status_code == 200
    assert 'api_requests_total{endpoint="/health",http_status="200",method="GET"}' in metrics.text
    assert "api_request_latency_seconds_bucket" in metrics.text


def test_a_prediction_equals_the_one_made_in_this_process(container):
    with TestClient(create_app(Settings(models_dir=ROOT / "models"))) as here:
        expected = [here.post("/predict", json=patient).json() for patient in PATIENTS]

    answers = [httpx2.post(container.url + "/predict", json=p).json() for p in PATIENTS]

    assert [a["probability"] for a in answers] == pytest.approx(
        [e["probability"] for e in expected], abs=1e-9
    )
    assert [a["label"] for a in answers] == [e["label"] for e in expected]


def test_a_refusal_is_a_problem_document(container):
    answer = httpx2.post(container.url + "/predict", json={"age": 63, "sex": "male", "cp": 9})

    assert answer.status_code == 422
    assert answer.headers["content-type"].startswith("application/problem+json")


def test_it_runs_as_the_manifests_user_without_capabilities(container):
    status = container.execute("cat", "/proc/1/status").stdout

    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    uid = str(POD["securityContext"]["runAsUser"])
    assert fields["Uid"].split() == [uid] * 4
    assert int(uid) != 0
    assert {fields[name].strip("0") for name in ("CapPrm", "CapEff", "CapBnd")} == {""}
    assert fields["NoNewPrivs"] == "1"


def test_the_images_own_user_is_the_manifests(image_facts):
    context = POD["securityContext"]

    assert image_facts["Config"]["User"] == f"{context['runAsUser']}:{context['runAsGroup']}"


@pytest.mark.parametrize("place", ["/app/x", "/app/models/x", "/opt/heartdx/x", "/usr/x"])
def test_nothing_but_tmp_can_be_written(container, place):
    refused, allowed = container.execute("touch", place), container.execute("touch", "/tmp/x")

    assert "Read-only file system" in refused.stderr
    assert allowed.returncode == 0


def test_without_the_read_only_mount_the_user_could_not_write_either(image):
    refused = docker("run", "--rm", image, "touch", "/app/x", check=False)

    assert "Permission denied" in refused.stderr


def test_the_limits_hold_and_leave_room(container):
    facts, limit = container.facts(), mebibytes(BOX["resources"]["limits"]["memory"])

    assert facts["HostConfig"]["Memory"] == limit * 2**20
    assert facts["State"]["OOMKilled"] is False
    assert container.peak_mebibytes() < mebibytes(BOX["resources"]["requests"]["memory"]), (
        "raise the request"
    )


def test_it_holds_the_serving_set_and_nothing_else(container):
    listed = json.loads(
        container.python(
            "import json; from importlib.metadata import distributions\n"
            "print(json.dumps({d.metadata['Name']: d.version for d in distributions()"
            " if str(d.locate_file('')).startswith('/opt/heartdx')}))"
        )
    )
    serving = {
        match[1]: match[2]
        for match in re.finditer(
            r"^([a-z0-9._-]+)==([^\s;]+)", (ROOT / "requirements-serve.lock").read_text(), re.M
        )
    }
    found = {re.sub(r"[-_.]+", "-", name).lower(): v for name, v in listed.items()}

    assert found == {n: v for n, v in serving.items() if n in needed("heartdx")} | {
        "heartdx": found["heartdx"]
    }


def needed(root: str) -> set[str]:
    """Names a distribution needs at run time, as declared by what is installed here."""
    from packaging.requirements import Requirement

    declared = {
        re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower(): d.requires or []
        for d in distributions()
    }
    found, seen, ahead = set(), set(), [(root, frozenset())]
    while ahead:
        name, extras = ahead.pop()
        if (name, extras) in seen:  # a second way may ask for an extra that the first did not
            continue
        seen.add((name, extras))
        for text in declared[name]:
            requirement = Requirement(text)
            wanted = requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in (extras or {""})
            )
            key = re.sub(r"[-_.]+", "-", requirement.name).lower()
            if wanted:
                found.add(key)
                ahead.append((key, frozenset(requirement.extras)))
    return found


def test_it_holds_no_compiler_no_pickle_and_only_the_current_bundle(container):
    tools = container.execute("sh", "-c", "command -v gcc cc g++ make git curl")
    files = container.execute("find", "/app", "-type", "f").stdout.split()
    current = (ROOT / "models" / "current").read_text().strip()

    assert tools.stdout == ""
    assert not [name for name in files if name.endswith((".joblib", ".pkl", ".csv"))]
    assert {Path(name).parts[4] for name in files if "/bundles/" in name} == {current}


def test_no_layer_writes_bytecode_when_it_runs(container):
    cached = container.python(
        "import heartdx.serve, src.api; print(heartdx.serve.__cached__, src.api.__cached__)"
    )

    for name in cached.split():
        assert container.execute("test", "-f", name).returncode == 0


def test_the_healthcheck_passes_on_a_live_service_and_fails_without_one(container, image_facts):
    kind, *command = image_facts["Config"]["Healthcheck"]["Test"]
    image = image_facts["Id"]

    alive = container.execute(*command)
    dead = docker("run", "--rm", image, *command, check=False)

    assert kind == "CMD"
    assert alive.returncode == 0, alive.stderr
    assert dead.returncode != 0


def test_the_image_declares_its_port_signal_labels_and_licence(image_facts):
    config = image_facts["Config"]

    assert config["ExposedPorts"] == {"8000/tcp": {}}
    assert config["StopSignal"] == "SIGTERM"
    for name in ("title", "description", "licenses", "version", "revision"):
        assert config["Labels"][f"org.opencontainers.image.{name}"]


def test_sigterm_ends_it_cleanly_within_its_grace(image):
    short = started(image)

    begun = time.monotonic()
    docker("stop", "--time", str(GRACE), short.name)
    took, code = time.monotonic() - begun, short.facts()["State"]["ExitCode"]
    docker("rm", short.name)

    assert code == 0
    assert took < GRACE / 2


def test_a_request_in_flight_is_answered_after_sigterm(image):
    short = started(image)
    body = json.dumps(PATIENTS[0]).encode()
    line = http.client.HTTPConnection(short.url.removeprefix("http://"), timeout=GRACE)
    line.putrequest("POST", "/predict")
    line.putheader("Content-Type", "application/json")
    line.putheader("Content-Length", str(len(body)))
    line.endheaders(body[:20])
    time.sleep(0.5)  # the head and half of the body have arrived

    begun = time.monotonic()
    docker("kill", "--signal", "TERM", short.name)
    time.sleep(1)
    still_running = short.facts()["State"]["Running"]
    line.send(body[20:])
    answered = line.getresponse()
    probability = json.loads(answered.read())["probability"]
    code = int(docker("wait", short.name).stdout)
    took = time.monotonic() - begun
    docker("rm", short.name)

    assert still_running
    assert answered.status == 200
    assert 0 < probability < 1
    assert code == 0
    assert took < GRACE


def test_its_start_costs_under_two_seconds_of_the_one_core_it_is_given(image):
    """Processor seconds until it is ready: the wait of an idle machine, told on a busy one too."""
    fresh = started(image)
    while fresh.get("/readyz").status_code != 200:
        time.sleep(0.01)
    spent = fresh.processor_seconds()
    docker("rm", "--force", fresh.name)

    assert BOX["resources"]["limits"]["cpu"] == "1"
    assert spent < 2


def test_under_load_it_stays_below_half_of_its_memory_limit(image):
    """Two clients ask for single patients, two for the largest batches, for five seconds."""
    busy = started(image)
    singles, batches = {"json": PATIENTS[1]}, {"json": {"records": [PATIENTS[1]] * 1000}}
    until = time.monotonic() + 5
    codes: list[int] = []

    def ask(path: str, body: dict[str, Any]) -> None:
        with httpx2.Client(base_url=busy.url, timeout=30) as client:
            while time.monotonic() < until:
                codes.append(client.post(path, **body).status_code)

    clients = [
        threading.Thread(target=ask, args=asked)
        for asked in [("/predict", singles), ("/v1/predict/batch", batches)] * 2
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    peak, killed = busy.peak_mebibytes(), busy.facts()["State"]["OOMKilled"]
    docker("rm", "--force", busy.name)

    assert len(codes) > 50
    assert set(codes) == {200}
    assert killed is False
    assert peak < mebibytes(BOX["resources"]["limits"]["memory"]) / 2


def test_what_was_left_out_of_the_packages_is_not_missed(container):
    """Tests, stubs, headers, converters and a second ONNX Runtime: the Dockerfile removes them."""
    imported = container.python(
        "import importlib, pkgutil\n"
        "import heartdx.serve, heartdx.signing, model_signing.signing, model_signing.verifying\n"
        "names = [m.name for m in pkgutil.iter_modules(heartdx.serve.__path__, 'heartdx.serve.')]\n"
        "print(len([importlib.import_module(name) for name in names]))"
    )
    page = container.get("/docs")
    script = re.search(r'src="([^"]+\.js)"', page.text)
    files = container.execute("find", "/opt/heartdx", "-type", "f").stdout

    assert int(imported) > 20
    assert container.get(f"/{script[1]}").status_code == 200
    assert not re.findall(r"/tests?/test_|\.pyi\n|\.h\n|libonnxruntime\.so", files)


def test_a_signed_model_is_served_and_a_changed_one_is_not(image, tmp_path):
    models, keys = tmp_path / "models", signing.new_key(tmp_path / "keys")
    digest = (ROOT / "models" / "current").read_text().strip()
    shutil.copytree(ROOT / "models" / "bundles" / digest, models / "bundles" / digest)
    (models / "current").write_text(digest + "\n")
    signing.sign(models / "bundles" / digest, keys.private)
    changed = tmp_path / "changed"
    shutil.copytree(models, changed)
    with (changed / "bundles" / digest / "card.md").open("a") as card:
        card.write("one line more\n")
    subprocess.run(["chmod", "-R", "a+rX", str(tmp_path)], check=True)

    answers = []
    for folder in (models, changed):
        checked = started(
            image, "--volume", f"{folder}:/models:ro", "--env", "HEARTDX_MODELS_DIR=/models",
            "--volume", f"{keys.public}:/public.pem:ro", "--env", "HEARTDX_PUBLIC_KEY=/public.pem",
            "--env", "HEARTDX_REQUIRE_SIGNATURE=on",
        )  # fmt: skip
        answers.append(checked.get("/readyz"))
        docker("rm", "--force", checked.name)

    assert [answer.status_code for answer in answers] == [200, 503]


def test_the_manifests_hooks_take_readiness_away_and_give_it_back(container):
    hooks = {name: hook["exec"]["command"] for name, hook in BOX["lifecycle"].items()}

    ended = container.execute(*hooks["preStop"])
    draining = container.get("/readyz")
    begun = container.execute(*hooks["postStart"])

    assert (ended.returncode, begun.returncode) == (0, 0)
    assert draining.status_code == 503
    assert draining.json()["type"] == "urn:heartdx:problem:draining"
    assert container.get("/readyz").status_code == 200


def test_an_unknown_setting_stops_the_start_and_is_named(image):
    refused = docker("run", "--rm", "--env", "HEARTDX_LOG_LEVL=INFO", image, check=False)

    assert refused.returncode == 2
    assert "HEARTDX_LOG_LEVL" in refused.stderr


def test_a_fresh_clone_builds_and_says_which_command_makes_a_model(image, tmp_path):
    clone = tmp_path / "clone"
    for name in ("LICENSE", "README.md", "pyproject.toml", "requirements-serve.lock"):
        clone.mkdir(exist_ok=True)
        (clone / name).write_bytes((ROOT / name).read_bytes())
    for name in ("Dockerfile", ".dockerignore", "models/README.md"):
        (clone / name).parent.mkdir(exist_ok=True)
        (clone / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(["cp", "-a", str(ROOT / "src"), str(clone / "src")], check=True)
    docker("build", "--tag", "heart-api:no-model", str(clone))

    bare = started("heart-api:no-model")
    alive, ready, health = (bare.get(p) for p in ("/livez", "/readyz", "/health"))
    answer = httpx2.post(bare.url + "/predict", json=PATIENTS[0])
    docker("rm", "--force", bare.name)

    assert alive.status_code == 200
    assert {r.status_code for r in (ready, health, answer)} == {503}
    assert "src.model_train" in ready.json()["detail"]
