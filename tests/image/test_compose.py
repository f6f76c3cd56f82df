"""compose.yaml: valid, closed to the outside, and run together as far as it can be here.

Service, trainer, MLflow on PostgreSQL, Prometheus and Alertmanager run; the last three from
stand-ins of Debian's packages where their images cannot be pulled (ops/ci/compose-images.sh).
Grafana is not run: its provisioning is read, and held against what it is mounted beside.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
import yaml
from image_kit import ROOT

TOGETHER = ("heart-api", "mlflow", "postgres", "prometheus", "alertmanager")
OWN = {"heart-api", "heart-trainer", "heart-mlflow"}
PASSWORDS = ("POSTGRES_PASSWORD", "GRAFANA_PASSWORD")
PORTS = ("HEART_API_PORT", "MLFLOW_PORT", "PROMETHEUS_PORT", "ALERTMANAGER_PORT")
PROVISIONING = ROOT / "ops" / "compose" / "grafana" / "provisioning"


def compose(
    *arguments: str, settings: dict[str, str], check: bool = True
) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in {*PASSWORDS, "HEARTDX_MODELS_DIR"}}
    done = subprocess.run(
        ["docker", "compose", "--env-file", "/dev/null", *arguments],
        cwd=ROOT,
        env=kept | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 or not check, f"compose {arguments}: {done.stdout}{done.stderr}"
    return done


@dataclass(frozen=True)
class Stack:
    """The services that run together, under a project name of their own."""

    project: str
    settings: dict[str, str]

    def compose(self, *arguments: str, **settings: str) -> str:
        named = ("--project-name", self.project, *arguments)
        return compose(*named, settings=self.settings | settings).stdout

    def url(self, service: str, port: int) -> str:
        return f"http://{self.compose('port', service, str(port)).strip()}"

    def prometheus(self, path: str) -> Any:
        asked = httpx2.get(f"{self.url('prometheus', 9090)}/api/v1/{path}", timeout=5)
        return asked.json()["data"]

    def query(self, statement: str) -> str:
        return self.compose(
            "exec", "--no-TTY", "postgres", "psql", "--username", "mlflow", "--tuples-only",
            "--no-align", "--command", statement,
        ).strip()  # fmt: skip


@pytest.fixture(scope="module")
def passwords() -> dict[str, str]:
    return {name: secrets.token_urlsafe(24) for name in PASSWORDS}


@pytest.fixture(scope="module")
def configuration(passwords) -> dict[str, Any]:
    told = compose("--profile", "train", "config", "--format", "json", settings=passwords)
    return json.loads(told.stdout)


@pytest.fixture(scope="module")
def stack(image, trainer, passwords) -> Iterator[Stack]:
    made = Stack(f"heartdx-test-{uuid.uuid4().hex[:8]}", passwords | dict.fromkeys(PORTS, "0"))
    made.compose("--profile", "train", "build", "--quiet")
    try:
        made.compose("up", "--detach", "--no-build", "--wait", "--wait-timeout", "180", *TOGETHER)
        yield made
    finally:
        made.compose("--profile", "train", "down", "--volumes", "--timeout", "10")


def eventually(said: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not said() and time.monotonic() < deadline:
        time.sleep(0.5)
    return said()


def test_a_missing_password_is_refused_with_the_command_that_makes_one():
    refused = compose("config", "--quiet", settings={}, check=False)

    assert refused.returncode != 0
    assert "make compose-env" in refused.stderr


def test_the_command_writes_random_passwords_for_their_owner_once(tmp_path):
    make = ["make", "--silent", "-f", str(ROOT / "Makefile"), "compose-env"]

    subprocess.run(make, cwd=tmp_path, check=True, capture_output=True)
    first = (tmp_path / ".env").read_text()
    subprocess.run(make, cwd=tmp_path, check=True, capture_output=True)

    values = dict(line.split("=", 1) for line in first.splitlines())
    assert set(values) == set(PASSWORDS)
    assert len(set(values.values())) == 2
    assert min(map(len, values.values())) >= 32
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    assert (tmp_path / ".env").read_text() == first
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


def test_every_port_is_published_on_loopback_only(configuration):
    published = [p for s in configuration["services"].values() for p in s.get("ports", [])]

    assert len(published) == 5
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}


def test_every_service_is_hardened_and_limited(configuration):
    for name, service in configuration["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["mem_limit"]) > 0, name


def test_every_foreign_image_is_pinned_to_a_release(configuration):
    images = {service["image"] for service in configuration["services"].values()} - OWN

    assert len(images) == 4
    for image in images:
        assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+(\.\d+)?", image), image


def test_no_password_stands_in_the_file():
    text = (ROOT / "compose.yaml").read_text()

    for name in re.findall(r"(?m)^ *(\w*PASSWORD): (.*)$", text):
        assert re.fullmatch(r"\$\{\w+:\?.+\}", name[1]), name[0]


def test_the_service_and_the_database_and_the_monitoring_run_together(stack):
    listed = [json.loads(line) for line in stack.compose("ps", "--format", "json").splitlines()]

    assert {row["Service"]: row["Health"] for row in listed} == dict.fromkeys(TOGETHER, "healthy")


def test_prometheus_sees_the_service_and_has_its_rules(stack):
    def up() -> bool:
        targets = stack.prometheus("targets?state=active")["activeTargets"]
        return {"heart-api": "up"}.items() <= {
            target["labels"]["job"]: target["health"] for target in targets
        }.items()

    found = eventually(up)
    groups = stack.prometheus("rules")["groups"]
    written = {
        rule.get("alert") or rule["record"]
        for path in (ROOT / "ops" / "prometheus" / "rules").glob("*.yaml")
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    }

    assert found
    assert {rule["name"] for group in groups for rule in group["rules"]} == written
    assert "HeartApiDown" in written


def test_prometheus_delivers_to_the_alertmanager_beside_it(stack):
    found = eventually(lambda: bool(stack.prometheus("alertmanagers")["activeAlertmanagers"]))
    receivers = httpx2.get(f"{stack.url('alertmanager', 9093)}/api/v2/receivers", timeout=5).json()
    written = yaml.safe_load((ROOT / "ops/alertmanager/alertmanager.yml").read_text())["receivers"]

    assert found
    assert {r["name"] for r in receivers} == {r["name"] for r in written}


def test_only_mlflow_reaches_the_database(stack):
    reach = "import socket; socket.create_connection(('postgres', 5432), 3); print('reached')"

    def from_service(name: str) -> str:
        command = ("exec", "--no-TTY", name, "python", "-c", reach)
        named = ("--project-name", stack.project, *command)
        return compose(*named, settings=stack.settings, check=False).stdout.strip()

    assert from_service("mlflow") == "reached"
    assert from_service("heart-api") == ""


def test_a_training_run_is_logged_on_postgresql_and_its_model_is_served(stack):
    said = stack.compose(
        "run", "--rm", "--no-TTY", "trainer", "--cv-splits", "2", "--repeats", "1", "--jobs", "2"
    )
    version = re.search(r"model ([0-9a-f]{12}) is current", said)[1]
    tracking = f"{stack.url('mlflow', 5000)}/api/2.0/mlflow"
    asked = {"experiment_name": "heartdx"}
    found = httpx2.get(f"{tracking}/experiments/get-by-name", params=asked, timeout=30).json()
    wanted = {"experiment_ids": [found["experiment"]["experiment_id"]]}
    runs = httpx2.post(f"{tracking}/runs/search", json=wanted, timeout=30).json()["runs"]
    champion = stack.query("SELECT count(*) FROM registered_model_aliases WHERE alias='champion'")

    stack.compose(
        "up", "--detach", "--no-build", "heart-api", HEARTDX_MODELS_DIR="/training/models"
    )
    service = stack.url("heart-api", 8000)
    ready = eventually(lambda: answers(service + "/readyz"))
    patient = {"age": 63, "sex": "male", "cp": "typical angina"}
    served = httpx2.post(service + "/predict", json=patient).json()["model_version"]

    assert f"train {version}" in {run["info"]["run_name"] for run in runs}
    assert {run["info"]["status"] for run in runs} == {"FINISHED"}
    assert champion == "1"
    assert ready
    assert served.startswith(version)


def answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=5).status_code == 200
    except httpx2.TransportError:
        return False


def test_grafanas_datasource_is_the_prometheus_of_the_file(configuration):
    [source] = yaml.safe_load((PROVISIONING / "datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    host, port = re.fullmatch(r"http://([a-z]+):(\d+)", source["url"]).groups()

    assert source["type"] == "prometheus"
    assert source["isDefault"] is True
    assert int(port) in {p["target"] for p in configuration["services"][host]["ports"]}


def test_grafana_finds_every_dashboard_where_it_is_told_to_look(configuration):
    [provider] = yaml.safe_load((PROVISIONING / "dashboards/heartdx.yaml").read_text())["providers"]
    mounts = {v["target"]: v["source"] for v in configuration["services"]["grafana"]["volumes"]}
    folder = ROOT / "ops" / "grafana"
    dashboards = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]

    assert mounts[provider["options"]["path"]] == str(folder)
    assert mounts["/etc/grafana/provisioning"] == str(PROVISIONING)
    assert len({d["uid"] for d in dashboards}) == len(dashboards) == 3
    for dashboard in dashboards:
        kinds = [
            v.get("query") for v in dashboard["templating"]["list"] if v["type"] == "datasource"
        ]
        assert kinds == ["prometheus"]
