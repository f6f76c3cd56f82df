"""The engine, and containers of the service as k8s/deployment.yaml runs them.

A container gets the manifest's user, read-only root, dropped capabilities, limits, settings and
volumes, so that what holds here holds there.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import uuid
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = {d["kind"]: d for d in yaml.safe_load_all((ROOT / "k8s/deployment.yaml").read_text())}
POD = DOCUMENTS["Deployment"]["spec"]["template"]["spec"]
BOX = POD["containers"][0]
GRACE = POD["terminationGracePeriodSeconds"]
MEBIBYTES = {"Mi": 1, "Gi": 1024}


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"docker {arguments}: {done.stdout}{done.stderr}"
    return done


def mebibytes(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", text).groups()
    return int(number) * MEBIBYTES[unit]


def cores(text: str) -> str:
    text = str(text)
    return str(Decimal(text[:-1]) / 1000 if text.endswith("m") else Decimal(text))


def manifest_arguments() -> list[str]:
    """`docker run` options that say what the manifest says; an unknown setting is an error."""
    pod, own, limits = POD["securityContext"], BOX["securityContext"], BOX["resources"]["limits"]
    assert own["readOnlyRootFilesystem"]
    assert own["allowPrivilegeEscalation"] is False
    arguments = ["--read-only", "--security-opt", "no-new-privileges"]
    arguments += ["--user", f"{pod['runAsUser']}:{pod['runAsGroup']}"]
    for capability in own["capabilities"]["drop"]:
        arguments += ["--cap-drop", capability]
    megabytes = mebibytes(limits["memory"])
    arguments += ["--memory", f"{megabytes}m", "--memory-swap", f"{megabytes}m"]
    arguments += ["--cpus", cores(limits["cpu"])]
    for name, value in DOCUMENTS["ConfigMap"]["data"].items():
        arguments += ["--env", f"{name}={value}"]
    sizes = {v["name"]: mebibytes(v["emptyDir"]["sizeLimit"]) for v in POD["volumes"]}
    for mount in BOX["volumeMounts"]:
        arguments += ["--tmpfs", f"{mount['mountPath']}:size={sizes[mount['name']]}m,mode=1777"]
    return arguments


@dataclass(frozen=True)
class Container:
    """A running container of the image."""

    name: str
    url: str

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=5)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        return docker("exec", self.name, *command, check=False)

    def python(self, code: str) -> str:
        done = self.execute("python", "-c", code)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def peak_mebibytes(self) -> float:
        """The most memory its first process ever held."""
        status = self.execute("cat", "/proc/1/status").stdout
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024

    def processor_seconds(self) -> float:
        """What its first process has used of a core so far, in user and kernel together."""
        fields = self.execute("cat", "/proc/1/stat").stdout.rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def facts(self) -> Any:
        return json.loads(docker("inspect", self.name).stdout)[0]


def started(image: str, *options: str) -> Container:
    """A container that listens; its port is one the engine chose on loopback.

    Parameters
    ----------
    image : name or id.
    options : of `docker run`, after the manifest's, so that they win.
    """
    name = f"heart-api-test-{uuid.uuid4().hex[:8]}"
    docker("run", "--detach", "--name", name, "--publish", "127.0.0.1::8000",
           *manifest_arguments(), *options, image)  # fmt: skip
    address = docker("port", name, "8000/tcp").stdout.split()[0]
    container = Container(name, f"http://{address}")
    deadline = time.monotonic() + BOX["startupProbe"]["failureThreshold"]
    while time.monotonic() < deadline:
        try:
            if container.get(BOX["startupProbe"]["httpGet"]["path"]).status_code == 200:
                return container
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(docker("logs", name).stdout + docker("logs", name).stderr)
