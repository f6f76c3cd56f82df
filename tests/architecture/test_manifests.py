"""k8s/deployment.yaml is valid, and agrees with itself, the Dockerfile and the service.

``findings`` holds each rule; every rule is proven by one mutation that it must report.
"""

from __future__ import annotations

import copy
import functools
import re
import subprocess
import tempfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from heartdx import settings
from heartdx.serve import create_app
from heartdx.settings import variable

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
MANIFEST = ROOT / "k8s" / "deployment.yaml"
RELEASES = re.search(r"^RELEASES := (.+)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
UNITS = {"m": "0.001", "": "1", "Ki": "1024", "Mi": "1048576", "Gi": "1073741824"}

Documents = dict[str, Any]


def documents() -> Documents:
    """Kind to document; one of each kind."""
    found = list(yaml.safe_load_all(MANIFEST.read_text()))
    assert len({d["kind"] for d in found}) == len(found)
    return {d["kind"]: d for d in found}


def pod(manifest: Documents) -> Any:
    return manifest["Deployment"]["spec"]["template"]["spec"]


def container(manifest: Documents) -> Any:
    (only,) = pod(manifest)["containers"]
    return only


def quantity(text: str) -> Decimal:
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text)).groups()
    return Decimal(number) * Decimal(UNITS[unit])


def instruction(name: str) -> str:
    """The last instruction of that name in the Dockerfile."""
    return re.findall(rf"^{name} (.+)$", DOCKERFILE, re.M)[-1]


@functools.cache
def served_paths() -> set[str]:
    """Paths of the service's OpenAPI document."""
    return set(create_app(settings.Settings()).openapi()["paths"])


def findings(manifest: Documents) -> list[str]:
    """What is wrong, one line each."""
    return [*_wiring(manifest), *_probes(manifest), *_security(manifest), *_resources(manifest)]


def _wiring(manifest: Documents) -> list[str]:
    found, spec = [], manifest["Deployment"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    for kind, selector in {
        "Deployment": spec["selector"]["matchLabels"],
        "Service": manifest["Service"]["spec"]["selector"],
        "PodDisruptionBudget": manifest["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        "spread": pod(manifest)["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    }.items():
        if not selector.items() <= labels.items():
            found.append(f"{kind} selects none of the pods")
    (port,) = container(manifest)["ports"]
    (offered,) = manifest["Service"]["spec"]["ports"]
    exposed = int(instruction("EXPOSE"))
    if port["containerPort"] != exposed or f'"--port", "{exposed}"' not in instruction("CMD"):
        found.append("the container's port is not the image's")
    if offered["targetPort"] not in (port["name"], port["containerPort"]):
        found.append("the Service targets a port the container has not")
    if offered["port"] != 8000 or manifest["Service"]["spec"]["type"] != "LoadBalancer":
        found.append("the Service is not a LoadBalancer on 8000")
    if offered.get("protocol") != "TCP" or port.get("protocol") != "TCP":
        found.append("a port lacks its protocol, which server-side apply refuses")
    annotations = spec["template"]["metadata"]["annotations"]
    if annotations["prometheus.io/port"] != str(exposed):
        found.append("Prometheus is sent to another port")
    if annotations["prometheus.io/path"] not in served_paths():
        found.append("Prometheus is sent to a path that is not served")
    if pod(manifest)["serviceAccountName"] != manifest["ServiceAccount"]["metadata"]["name"]:
        found.append("the pod runs under another account")
    for source in container(manifest)["envFrom"]:
        if source["configMapRef"]["name"] != manifest["ConfigMap"]["metadata"]["name"]:
            found.append("the settings come from a ConfigMap that is not there")
    try:
        settings.read(manifest["ConfigMap"]["data"])
    except settings.UsageError as refusal:
        found.append(f"the service refuses the ConfigMap: {refusal}")
    if container(manifest)["imagePullPolicy"] != "IfNotPresent":
        found.append("a locally built image would be pulled")
    if container(manifest)["image"].split(":")[0] != "heart-api":
        found.append("the image has another name than `docker build -t heart-api`")
    return found


def _probes(manifest: Documents) -> list[str]:
    found, main = [], container(manifest)
    wanted = {"startupProbe": "/livez", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
    for name, path in wanted.items():
        get = main[name]["httpGet"]
        if get["path"] not in served_paths():
            found.append(f"{name} asks a path that is not served")
        if get["path"] != path:
            found.append(f"{name} asks {get['path']}, which answers another question")
        if get["port"] not in [port["name"] for port in main["ports"]]:
            found.append(f"{name} asks a port that is not there")
    rollout = manifest["Deployment"]["spec"]["strategy"]["rollingUpdate"]
    if rollout["maxUnavailable"] != 0 or manifest["Deployment"]["spec"]["replicas"] < 2:
        found.append("a rolling update takes the last pod away")
    return [*found, *_end(manifest)]


def hook(manifest: Documents, name: str) -> list[str]:
    """The command of a lifecycle hook, empty without one."""
    hooks = container(manifest).get("lifecycle", {})
    return hooks.get(name, {}).get("exec", {}).get("command", [])


def tried(command: list[str], marker: Path) -> tuple[bool, int]:
    """What a hook leaves behind when it runs: whether the marker stands, and seconds it paused."""
    slept = marker.with_name("slept")
    sleep = marker.with_name("sleep")
    sleep.write_text(f'#!/bin/sh\necho "$1" >> "{slept}"\n')
    sleep.chmod(0o755)
    path = f"{marker.parent}:/usr/bin:/bin"
    subprocess.run(command, env={"PATH": path, variable("drain_file"): str(marker)}, check=True)
    paused = slept.read_text().split() if slept.exists() else []
    slept.unlink(missing_ok=True)
    return marker.exists(), sum(map(int, paused))


def _end(manifest: Documents) -> list[str]:
    """Readiness drops, then whoever sends requests gets time to see it, then the sockets close."""
    start, stop = hook(manifest, "postStart"), hook(manifest, "preStop")
    probe = container(manifest)["readinessProbe"]
    if not stop:
        return ["without a preStop pause a rolling update refuses connections"]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        marker = Path(folder) / "marker"
        is_there, pause = tried(stop, marker)
        stays, _ = tried(start, marker) if start else (True, 0)
    if not is_there:
        found.append("before its end the pod does not say that it is not ready")
    if stays:
        found.append("a container started again finds the marker of its predecessor's end")
    if not Path(manifest["ConfigMap"]["data"].get(variable("drain_file"), "")).is_relative_to(
        container(manifest)["volumeMounts"][0]["mountPath"]
    ):
        found.append("the drain marker lies where nothing can be written")
    if pause <= probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]:
        found.append("the pause ends before readiness drops")
    drain = int(re.search(r'"--timeout-graceful-shutdown", "(\d+)"', DOCKERFILE)[1])
    if pause + drain >= pod(manifest)["terminationGracePeriodSeconds"]:
        found.append("the grace period is shorter than pause and draining")
    return found


def _security(manifest: Documents) -> list[str]:
    found, main, spec = [], container(manifest), pod(manifest)
    context, own = spec["securityContext"], main["securityContext"]
    uid, gid = instruction("USER").split(":")
    if (str(context.get("runAsUser")), str(context.get("runAsGroup"))) != (uid, gid):
        found.append("the uid is not the Dockerfile's USER")
    if not context.get("runAsNonRoot") or uid == "0":
        found.append("the pod may run as root")
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        found.append("no seccomp profile")
    if own.get("capabilities", {}).get("drop") != ["ALL"] or "add" in own["capabilities"]:
        found.append("capabilities are kept")
    if not own.get("readOnlyRootFilesystem"):
        found.append("the root file system can be written")
    if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
        found.append("privileges can be gained")
    tokens = (spec, manifest["ServiceAccount"])
    if any(place.get("automountServiceAccountToken") is not False for place in tokens):
        found.append("a token of the cluster is mounted")
    workdir = re.findall(r"^WORKDIR (.+)$", DOCKERFILE, re.M)[-1]
    for mount in main.get("volumeMounts", []):
        if mount["mountPath"] != "/tmp":
            found.append(f"{mount['mountPath']} is mounted; only /tmp is needed, never {workdir}")
    return found


def _resources(manifest: Documents) -> list[str]:
    found, resources = [], container(manifest)["resources"]
    for name in ("cpu", "memory"):
        if name not in resources["requests"] or name not in resources["limits"]:
            found.append(f"{name} has no request or no limit")
        elif quantity(resources["requests"][name]) > quantity(resources["limits"][name]):
            found.append(f"{name}: the request is over the limit")
    for volume in pod(manifest)["volumes"]:
        if "sizeLimit" not in volume.get("emptyDir", {}):
            found.append(f"volume {volume['name']} is no emptyDir with a limit")
    return found


def test_the_manifest_agrees_with_itself_the_image_and_the_service():
    assert findings(documents()) == []


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("kind", sorted(documents()))
def test_the_strict_schema_of_a_release_accepts_the_manifest(kind, release):
    kubernetes_validate.validate(documents()[kind], release, strict=True)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("kind", sorted(documents()))
def test_the_strict_schema_refuses_a_field_that_does_not_exist(kind, release):
    broken = documents()[kind]
    broken["specification"] = {}

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, release, strict=True)


def put(*keys: Any) -> Callable[[Documents], None]:
    """A mutation: set the last of ``keys`` at the place the others name; ``...`` deletes."""
    *place, last, value = keys

    def mutate(manifest: Documents) -> None:
        target = manifest
        for key in place:
            target = target[key]
        if value is ...:
            del target[last]
        else:
            target[last] = value

    return mutate


POD = ("Deployment", "spec", "template", "spec")
BOX = (*POD, "containers", 0)
NAME = "app.kubernetes.io/name"
PORTS = ("Service", "spec", "ports", 0)
NOTES = ("Deployment", "spec", "template", "metadata", "annotations")
BUDGET = ("PodDisruptionBudget", "spec", "selector", "matchLabels")
SPREAD = (*POD, "topologySpreadConstraints", 0, "labelSelector", "matchLabels")

MUTATIONS = {
    "Deployment selects none": put("Deployment", "spec", "selector", "matchLabels", NAME, "x"),
    "Service selects none": put("Service", "spec", "selector", NAME, "x"),
    "PodDisruptionBudget selects none": put(*BUDGET, NAME, "x"),
    "spread selects none": put(*SPREAD, NAME, "x"),
    "container's port is not": put(*BOX, "ports", 0, "containerPort", 8080),
    "targets a port": put(*PORTS, "targetPort", "web"),
    "not a LoadBalancer on 8000": put("Service", "spec", "type", "NodePort"),
    "lacks its protocol": put(*PORTS, "protocol", ...),
    "Prometheus is sent to another port": put(*NOTES, "prometheus.io/port", "9090"),
    "Prometheus is sent to a path": put(*NOTES, "prometheus.io/path", "/prometheus"),
    "another account": put(*POD, "serviceAccountName", "default"),
    "ConfigMap that is not there": put(*BOX, "envFrom", 0, "configMapRef", "name", "x"),
    "refuses the ConfigMap": put("ConfigMap", "data", "HEARTDX_LOG_LEVL", "INFO"),
    "would be pulled": put(*BOX, "imagePullPolicy", "Always"),
    "image has another name": put(*BOX, "image", "heartdx:latest"),
    "path that is not served": put(*BOX, "livenessProbe", "httpGet", "path", "/alive"),
    "answers another question": put(*BOX, "readinessProbe", "httpGet", "path", "/livez"),
    "asks a port": put(*BOX, "startupProbe", "httpGet", "port", "web"),
    "takes the last pod away": put(
        "Deployment", "spec", "strategy", "rollingUpdate", "maxUnavailable", 1
    ),
    "refuses connections": put(*BOX, "lifecycle", ...),
    "does not say that it is not ready": put(
        *BOX, "lifecycle", "preStop", "exec", "command", ["sleep", "8"]
    ),
    "marker of its predecessor": put(*BOX, "lifecycle", "postStart", ...),
    "where nothing can be written": put("ConfigMap", "data", "HEARTDX_DRAIN_FILE", "/app/drain"),
    "pause ends before readiness drops": put(*BOX, "readinessProbe", "periodSeconds", 5),
    "grace period is shorter": put(*POD, "terminationGracePeriodSeconds", 20),
    "uid is not": put(*POD, "securityContext", "runAsUser", 1000),
    "may run as root": put(*POD, "securityContext", "runAsNonRoot", False),
    "no seccomp": put(*POD, "securityContext", "seccompProfile", ...),
    "capabilities are kept": put(*BOX, "securityContext", "capabilities", "drop", []),
    "can be written": put(*BOX, "securityContext", "readOnlyRootFilesystem", False),
    "privileges can be gained": put(*BOX, "securityContext", "allowPrivilegeEscalation", True),
    "a token of the cluster": put("ServiceAccount", "automountServiceAccountToken", True),
    "only /tmp is needed": put(*BOX, "volumeMounts", 0, "mountPath", "/app/models"),
    "no request or no limit": put(*BOX, "resources", "limits", "memory", ...),
    "request is over the limit": put(*BOX, "resources", "requests", "memory", "1Gi"),
    "no emptyDir with a limit": put(*POD, "volumes", 0, "emptyDir", {}),
}


@pytest.mark.parametrize("expected", MUTATIONS)
def test_a_broken_manifest_is_reported(expected):
    broken = copy.deepcopy(documents())

    MUTATIONS[expected](broken)

    assert [line for line in findings(broken) if expected in line], findings(broken)
