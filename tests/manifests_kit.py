"""What must hold of every manifest, as rules from documents to what breaks them.

``tests/architecture/test_manifests.py`` asks them of the files, ``tests/manifests/rendered.py`` of
all that kubectl renders; both prove every rule by a mutation that it must report.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import shlex
import subprocess
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from heartdx import cli, settings
from heartdx.serve import create_app
from heartdx.settings import variable

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
UNITS = {"m": "0.001", "": "1", "Ki": "1024", "Mi": "1048576", "Gi": "1073741824"}
PUBLIC = 8000
LOOPBACK = ("127.", "::1", "localhost")

Manifest = dict[str, Any]
"""``Kind/name`` to document."""


@dataclass(frozen=True)
class Pod:
    """The pods of a Deployment, a Job or a Pod."""

    owner: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    spec: Any

    @property
    def containers(self) -> list[Any]:
        """Those that run before the others, too."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def ports(self) -> dict[str, Any]:
        return {port["name"]: port for c in self.containers for port in c.get("ports", [])}


def manifest(documents: Iterable[Any]) -> Manifest:
    """The documents by kind and name; each may come once."""
    listed = [(f"{d['kind']}/{d['metadata']['name']}", d) for d in documents]
    assert len(dict(listed)) == len(listed), "two documents of one kind and name"
    return dict(listed)


def of_kind(whole: Manifest, *kinds: str) -> list[Any]:
    return [document for key, document in whole.items() if key.split("/")[0] in kinds]


def only(whole: Manifest, kind: str) -> Any:
    (found,) = of_kind(whole, kind)
    return found


def pods(whole: Manifest) -> list[Pod]:
    found = []
    for key, document in whole.items():
        if document["kind"] in ("Deployment", "Job", "Pod"):
            made = document if document["kind"] == "Pod" else document["spec"]["template"]
            notes = made["metadata"]
            labels, said = notes.get("labels") or {}, notes.get("annotations") or {}
            found.append(Pod(key, labels, said, made["spec"]))
    return found


def served_by(whole: Manifest) -> Pod | None:
    """The pods of the service, if it is part of this manifest."""
    found = [pod for pod in pods(whole) if pod.owner.startswith("Deployment/")]
    return found[0] if found else None


def environment(whole: Manifest, container: Any) -> dict[str, str]:
    """What a container finds in its environment, as far as the manifest knows."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        key = f"ConfigMap/{source['configMapRef']['name']}"
        found |= whole.get(key, {"data": {}})["data"]
    return found | {entry["name"]: entry["value"] for entry in container.get("env", [])}


def quantity(text: str) -> Decimal:
    match = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    assert match is not None
    return Decimal(match[1]) * Decimal(UNITS[match[2]])


def image_name(container: Any) -> str:
    return str(container["image"]).rsplit("/", 1)[-1].split(":")[0]


@functools.cache
def stage(name: str) -> str:
    """The stage of the Dockerfile that makes an image: `trainer`, or the last."""
    stages = re.split(r"^(?=FROM )", DOCKERFILE, flags=re.MULTILINE)
    if name == "heart-trainer":
        (found,) = [text for text in stages if re.match(r"FROM \S+ AS trainer\b", text)]
        return found
    return stages[-1]


def instruction(name: str, image: str = "heart-api") -> str:
    """The last instruction of that name in the stage of an image."""
    return str(re.findall(rf"^{name} (.+)$", stage(image), re.MULTILINE)[-1])


@functools.cache
def served_paths() -> set[str]:
    """Paths of the service's OpenAPI document."""
    return set(create_app(settings.Settings()).openapi()["paths"])


@functools.cache
def release() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


@functools.cache
def made_by_command() -> frozenset[str]:
    """Objects that docs/deploy.md makes by hand, since a repository must not hold them."""
    text = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    made = re.findall(r"^kubectl create (configmap|secret \w+) (\S+)", text, re.MULTILINE)
    kinds = {"configmap": "ConfigMap", "secret": "Secret"}
    return frozenset(f"{kinds[what.split()[0]]}/{name}" for what, name in made)


def tool(name: str) -> ModuleType:
    """A script of tools/."""
    spec = importlib.util.spec_from_file_location(f"{name}_tool", ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def findings(whole: Manifest) -> list[str]:
    """What is wrong, one line each."""
    rules = (_images, _settings, _references, _security, _mounts, _resources)
    rules += (_selectors, _ports, _doors, _probes, _end, _scaling, _network, _monitoring, _jobs)
    return [finding for rule in rules for finding in rule(whole)]


# -- every pod -----------------------------------------------------------------------------------


def _images(whole: Manifest) -> Iterator[str]:
    for pod in pods(whole):
        for container in pod.containers:
            if image_name(container) not in ("heart-api", "heart-trainer"):
                yield "the image has another name than `docker build -t heart-api`"
            if container["imagePullPolicy"] != "IfNotPresent":
                yield "a locally built image would be pulled"
            tag = container["image"].rsplit("/", 1)[-1].partition(":")[2]
            if tag != (release() if "/" in container["image"] else "latest"):
                yield "the image's tag is neither the local build's nor the release's"
        if len({c["image"] for c in pod.containers}) != 1:
            yield "what verifies is another image than what serves"


def _settings(whole: Manifest) -> Iterator[str]:
    for pod in pods(whole):
        for container in pod.containers:
            found = environment(whole, container)
            try:
                settings.read(found)
            except settings.UsageError as refusal:
                yield f"the service refuses the ConfigMap: {refusal}"
            known = {variable(name) for name in settings.Settings.__dataclass_fields__}
            if strange := found.keys() - known:
                yield f"{pod.owner}: {', '.join(strange)} is no setting of anything"


def _references(whole: Manifest) -> Iterator[str]:
    for owner, wanted in _wanted(whole):
        if wanted not in whole and wanted not in made_by_command():
            yield f"{owner} needs {wanted}, which is neither here nor made by docs/deploy.md"


def _wanted(whole: Manifest) -> Iterator[tuple[str, str]]:
    for pod in pods(whole):
        if "serviceAccountName" in pod.spec:
            yield pod.owner, f"ServiceAccount/{pod.spec['serviceAccountName']}"
        for container in pod.containers:
            for source in container.get("envFrom", []):
                yield pod.owner, f"ConfigMap/{source['configMapRef']['name']}"
        for volume in pod.spec.get("volumes", []):
            if "configMap" in volume:
                yield pod.owner, f"ConfigMap/{volume['configMap']['name']}"
            if "secret" in volume:
                yield pod.owner, f"Secret/{volume['secret']['secretName']}"
            if "persistentVolumeClaim" in volume:
                name = volume["persistentVolumeClaim"]["claimName"]
                yield pod.owner, f"PersistentVolumeClaim/{name}"
    for ingress in of_kind(whole, "Ingress"):
        for entry in ingress["spec"].get("tls", []):
            yield "Ingress", f"Secret/{entry['secretName']}"


def references(whole: Manifest) -> set[str]:
    """Objects that something in the manifest names."""
    return {wanted for _, wanted in _wanted(whole)}


def _security(whole: Manifest) -> Iterator[str]:
    accounts = of_kind(whole, "ServiceAccount")
    if any(account.get("automountServiceAccountToken") is not False for account in accounts):
        yield "a token of the cluster is mounted"
    for pod in pods(whole):
        context = pod.spec.get("securityContext", {})
        if not context.get("runAsNonRoot") or context.get("runAsUser", 0) == 0:
            yield "the pod may run as root"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield "no seccomp profile"
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield "a token of the cluster is mounted"
        if any(pod.spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
            yield "the pod shares the node's namespaces"
        for container in pod.containers:
            yield from _confined(container, context)


def _confined(container: Any, context: Any) -> Iterator[str]:
    own = container.get("securityContext", {})
    uid, gid = instruction("USER", image_name(container)).split(":")
    if (str(context.get("runAsUser")), str(context.get("runAsGroup"))) != (uid, gid):
        yield "the uid is not the Dockerfile's USER"
    if own.get("capabilities", {}).get("drop") != ["ALL"] or "add" in own["capabilities"]:
        yield "capabilities are kept"
    if not own.get("readOnlyRootFilesystem"):
        yield "the root file system can be written"
    if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
        yield "privileges can be gained"


def _mounts(whole: Manifest) -> Iterator[str]:
    for pod in pods(whole):
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        mounts = [(c, m) for c in pod.containers for m in c.get("volumeMounts", [])]
        if {mount["name"] for _, mount in mounts} != volumes.keys():
            yield f"{pod.owner}: volumes and mounts do not have the same names"
        for container, mount in mounts:
            yield from _mounted(pod, container, mount, volumes.get(mount["name"], {}))
        for volume in volumes.values():
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"volume {volume['name']} is no emptyDir with a limit"
        for container in pod.containers:
            yield from _paths(whole, container, volumes)


def _mounted(pod: Pod, container: Any, mount: Any, volume: Any) -> Iterator[str]:
    workdir, place = PurePosixPath(instruction("WORKDIR")), PurePosixPath(mount["mountPath"])
    if image_name(container) == "heart-api" and (
        place.is_relative_to(workdir) or workdir.is_relative_to(place)
    ):
        yield f"{place} is mounted over what the image holds in {workdir}"
    if "emptyDir" in volume and str(place) != "/tmp":
        yield f"{place} is mounted empty; only /tmp may be"
    serves = pod.owner.startswith("Deployment/")
    only_read = serves or "secret" in volume or "configMap" in volume
    if only_read and "emptyDir" not in volume and not mount.get("readOnly"):
        yield f"{place} can be written by who should only read it"


def _paths(whole: Manifest, container: Any, volumes: Mapping[str, Any]) -> Iterator[str]:
    """Each path of a setting lies in a volume of the right kind."""
    kinds = {
        "drain_file": ("emptyDir", "the drain marker lies where nothing can be written"),
        "models_dir": ("persistentVolumeClaim", "the models come from no claim"),
        "public_key": ("configMap", "the public key lies in no ConfigMap"),
        "api_keys_file": ("secret", "the API keys lie in no Secret"),
    }
    found = environment(whole, container)
    before = [m["mountPath"] for m in container.get("volumeMounts", [])]
    for name, (kind, wrong) in kinds.items():
        path = found.get(variable(name))
        if path is None or (name == "api_keys_file" and "ports" not in container):
            continue
        above = [m for m in before if PurePosixPath(path).is_relative_to(m)]
        mount = next((m for m in container["volumeMounts"] if m["mountPath"] in above), None)
        if mount is None or kind not in volumes.get(mount["name"], {}):
            yield wrong
    if "ports" in container and variable("drain_file") not in found:
        yield "the drain marker lies where nothing can be written"


def _resources(whole: Manifest) -> Iterator[str]:
    for pod in pods(whole):
        for container in pod.containers:
            resources = container["resources"]
            for name in ("cpu", "memory"):
                if name not in resources["requests"] or name not in resources["limits"]:
                    yield f"{name} has no request or no limit"
                elif quantity(resources["requests"][name]) > quantity(resources["limits"][name]):
                    yield f"{name}: the request is over the limit"


# -- the service ---------------------------------------------------------------------------------


def _selectors(whole: Manifest) -> Iterator[str]:
    labels = [pod.labels for pod in pods(whole)]
    for kind, selector in _selecting(whole):
        if not any(selector.items() <= found.items() for found in labels):
            yield f"{kind} selects none of the pods"


def _selecting(whole: Manifest) -> Iterator[tuple[str, Any]]:
    for document in of_kind(whole, "Deployment", "PodDisruptionBudget"):
        yield document["kind"], document["spec"]["selector"]["matchLabels"]
    for document in of_kind(whole, "Service"):
        yield "Service", document["spec"]["selector"]
    for document in of_kind(whole, "NetworkPolicy"):
        yield "NetworkPolicy", document["spec"]["podSelector"].get("matchLabels", {})
    for pod in pods(whole):
        for constraint in pod.spec.get("topologySpreadConstraints", []):
            yield "spread", constraint["labelSelector"]["matchLabels"]


def _ports(whole: Manifest) -> Iterator[str]:
    pod = served_by(whole)
    if pod is None:
        return
    exposed = int(instruction("EXPOSE"))
    public = pod.ports.get("http", {}).get("containerPort")
    if public != exposed or f'"--port", "{exposed}"' not in instruction("CMD"):
        yield "the container's port is not the image's"
    admin = _admin(whole, pod)
    if pod.ports.get("admin", {}).get("containerPort") != admin:
        yield "the admin port is not the one that the settings open"
    if admin and _settings_of(whole, pod).get(variable("admin_address"), "127.").startswith(
        LOOPBACK
    ):
        yield "the admin port listens where no other pod reaches it"
    for service in of_kind(whole, "Service"):
        for port in service["spec"]["ports"]:
            if _target(pod, port) is None:
                yield "the Service targets a port the container has not"
    listed = [p for s in of_kind(whole, "Service") for p in s["spec"]["ports"]]
    for port in (*pod.ports.values(), *listed):
        if port.get("protocol") != "TCP":
            yield "a port lacks its protocol, which server-side apply refuses"


def _settings_of(whole: Manifest, pod: Pod) -> dict[str, str]:
    return environment(whole, pod.spec["containers"][0])


def _admin(whole: Manifest, pod: Pod) -> int | None:
    """The second port, None without one."""
    return int(_settings_of(whole, pod).get(variable("admin_port"), "0")) or None


def _target(pod: Pod, port: Any) -> int | None:
    """The container's port that a port of a Service leads to."""
    for name, found in pod.ports.items():
        if port["targetPort"] in (name, found["containerPort"]):
            return int(found["containerPort"])
    return None


def _doors(whole: Manifest) -> Iterator[str]:
    """Who gets in from outside: the Service itself, or behind an Ingress with TLS."""
    pod = served_by(whole)
    if pod is None:
        return
    service, ingresses = only(whole, "Service"), of_kind(whole, "Ingress")
    offered = {port["name"]: port for port in service["spec"]["ports"]}
    kind = "ClusterIP" if ingresses else "LoadBalancer"
    if offered["http"]["port"] != PUBLIC or service["spec"]["type"] != kind:
        yield f"the Service is not a {kind} on 8000"
    for ingress in ingresses:
        spec = ingress["spec"]
        hosts = {rule.get("host") for rule in spec["rules"]}
        covered = {host for entry in spec.get("tls", []) for host in entry["hosts"]}
        if not hosts <= covered:
            yield "a host of the Ingress is served without TLS"
        for backend in (p["backend"] for r in spec["rules"] for p in r["http"]["paths"]):
            named = backend["service"]
            if named["name"] != service["metadata"]["name"] or named["port"] != {"name": "http"}:
                yield "the Ingress leads to something else than the public port"
        if not of_kind(whole, "NetworkPolicy"):
            yield "behind the Ingress every pod of the cluster reaches the service"
        if _settings_of(whole, pod).get(variable("api_keys_file")) is None:
            yield "behind the Ingress anybody may ask"
        yield from _verified_first(whole, pod)


def _verified_first(whole: Manifest, pod: Pod) -> Iterator[str]:
    commands = [c.get("command") for c in pod.spec.get("initContainers", [])]
    if ["heartdx", "model", "verify"] not in commands:
        yield "no init container verifies the model"
    for container in pod.containers:
        found = environment(whole, container)
        if found.get(variable("require_signature")) != "on" or not found.get(
            variable("public_key")
        ):
            yield "an unsigned model would be served"


def _probes(whole: Manifest) -> Iterator[str]:
    pod = served_by(whole)
    if pod is None:
        return
    main = pod.spec["containers"][0]
    wanted = {"startupProbe": "/livez", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
    for name, path in wanted.items():
        get = main[name]["httpGet"]
        if get["path"] not in served_paths():
            yield f"{name} asks a path that is not served"
        if get["path"] != path:
            yield f"{name} asks {get['path']}, which answers another question"
        if get["port"] != "http":
            yield f"{name} asks a port that is not there"


def hook(pod: Pod, name: str) -> list[str]:
    """The command of a lifecycle hook, empty without one."""
    hooks = pod.spec["containers"][0].get("lifecycle", {})
    found: list[str] = hooks.get(name, {}).get("exec", {}).get("command", [])
    return found


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


def _end(whole: Manifest) -> Iterator[str]:
    """Readiness drops, then whoever sends requests gets time to see it, then the sockets close."""
    pod = served_by(whole)
    if pod is None:
        return
    start, stop = hook(pod, "postStart"), hook(pod, "preStop")
    probe = pod.spec["containers"][0]["readinessProbe"]
    if not stop:
        yield "without a preStop pause a rolling update refuses connections"
        return
    with tempfile.TemporaryDirectory() as folder:
        marker = Path(folder) / "marker"
        is_there, pause = tried(stop, marker)
        stays, _ = tried(start, marker) if start else (True, 0)
    if not is_there:
        yield "before its end the pod does not say that it is not ready"
    if stays:
        yield "a container started again finds the marker of its predecessor's end"
    if pause <= probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]:
        yield "the pause ends before readiness drops"
    match = re.search(r'"--timeout-graceful-shutdown", "(\d+)"', instruction("CMD"))
    assert match is not None
    if pause + int(match[1]) >= pod.spec["terminationGracePeriodSeconds"]:
        yield "the grace period is shorter than pause and draining"


def _scaling(whole: Manifest) -> Iterator[str]:
    for deployment in of_kind(whole, "Deployment"):
        spec, name = deployment["spec"], deployment["metadata"]["name"]
        scalers = of_kind(whole, "HorizontalPodAutoscaler")
        least = spec.get("replicas", 1)
        for scaler in scalers:
            target, least = scaler["spec"]["scaleTargetRef"], scaler["spec"]["minReplicas"]
            if (target["apiVersion"], target["kind"], target["name"]) != (
                *("apps/v1", "Deployment"),
                name,
            ):
                yield "the HorizontalPodAutoscaler scales something that is not there"
            if "replicas" in spec:
                yield "replicas and the HorizontalPodAutoscaler fight over the number of pods"
            if scaler["spec"]["maxReplicas"] < least:
                yield "the HorizontalPodAutoscaler's most is less than its least"
        if of_kind(whole, "VerticalPodAutoscaler"):
            yield "two autoscalers act on one Deployment"
        if spec["strategy"]["rollingUpdate"]["maxUnavailable"] != 0 or least < 2:
            yield "a rolling update takes the last pod away"


def _network(whole: Manifest) -> Iterator[str]:
    policies = of_kind(whole, "NetworkPolicy")
    if not policies:
        return
    closed = [p["spec"] for p in policies if p["spec"]["podSelector"] == {}]
    if not closed or closed[0].keys() & {"ingress", "egress"}:
        yield "no policy denies what none admits"
    for policy in (p["spec"] for p in policies):
        if set(policy["policyTypes"]) != {"Ingress", "Egress"}:
            yield "a policy leaves one direction open"
        if policy.get("egress"):
            yield "the service gets a way out, which it does not need"
    pod = served_by(whole)
    assert pod is not None
    admitted: list[Any] = []
    for rule in (rule for p in policies for rule in p["spec"].get("ingress", [])):
        peers = rule.get("from", [])
        if not peers or any({"namespaceSelector", "podSelector"} - peer.keys() for peer in peers):
            yield "a policy admits more than one program of one namespace"
        for port in rule.get("ports", []):
            if port.get("protocol") != "TCP" or port["port"] not in pod.ports:
                yield "a policy admits to a port the container has not"
        admitted += [port["port"] for port in rule.get("ports", [])] or ["all"]
    if sorted(admitted) != sorted(pod.ports):
        yield "the policies do not admit one program to each port"


def _monitoring(whole: Manifest) -> Iterator[str]:
    pod = served_by(whole)
    if pod is None:
        return
    here = _admin(whole, pod) or PUBLIC
    if pod.annotations.get("prometheus.io/scrape") == "true":
        if pod.annotations["prometheus.io/port"] != str(here):
            yield "Prometheus is sent to another port"
        if pod.annotations["prometheus.io/path"] not in served_paths():
            yield "Prometheus is sent to a path that is not served"
    for monitor in of_kind(whole, "ServiceMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"]
        services = [
            s
            for s in of_kind(whole, "Service")
            if selector.items() <= s["metadata"]["labels"].items()
        ]
        if not services:
            yield "the ServiceMonitor selects no Service"
        for endpoint in monitor["spec"]["endpoints"]:
            if endpoint["path"] not in served_paths():
                yield "Prometheus is sent to a path that is not served"
            for service in services:
                ports = {p["name"]: p for p in service["spec"]["ports"]}
                port = ports.get(endpoint["port"])
                if port is None or _target(pod, port) != here:
                    yield "the ServiceMonitor names a port without metrics"
    names = {service["metadata"]["name"] for service in of_kind(whole, "Service")}
    for rule in of_kind(whole, "PrometheusRule"):
        asked = [r["expr"] for group in rule["spec"]["groups"] for r in group["rules"]]
        jobs = set(re.findall(r'\bjob="([^"]*)"', "\n".join(map(str, asked))))
        if not jobs <= names:
            yield "a rule asks for a job that no Service has as its name"


# -- training ------------------------------------------------------------------------------------


def _jobs(whole: Manifest) -> Iterator[str]:
    for job in of_kind(whole, "Job"):
        spec, pod = job["spec"], job["spec"]["template"]["spec"]
        if not 0 <= spec.get("backoffLimit", 6) <= 2 or pod["restartPolicy"] != "Never":
            yield "a training that fails is tried again and again"
        if "ttlSecondsAfterFinished" not in spec or "activeDeadlineSeconds" not in spec:
            yield "a Job stays for ever"
        (container,) = pod["containers"]
        yield from _orders(container)


def _orders(container: Any) -> Iterator[str]:
    if "command" in container:
        yield "the Job does something else than its image"
    steps = commands(container)
    for step in steps:
        try:
            cli._parsed(step[1:], None)
        except SystemExit:
            yield f"the Job's `{shlex.join(step)}` is no command"
    if [step[1] for step in steps] != ["fetch", "explore", "train"]:
        yield "the Job's image does not run the pipeline"
    limit = quantity(container["resources"]["limits"]["cpu"])
    if "--jobs" not in steps[-1] or Decimal(steps[-1][steps[-1].index("--jobs") + 1]) != limit:
        yield "the Job trains with another number of processes than it may use cores"
    writable = [m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")]
    if instruction("WORKDIR", "heart-trainer") not in writable:
        yield "the Job writes where nothing can be written"


def commands(container: Any) -> list[list[str]]:
    """What the trainer does: its image's shell, which stops at the first failure, and ``args``."""
    shell, flags, script, _ = json.loads(instruction("ENTRYPOINT", "heart-trainer"))
    assert shell == "sh"
    assert "e" in flags
    given = shlex.join(container.get("args", []))
    lines = [shlex.split(line.replace('"$@"', given)) for line in script.split(";")]
    return [line[1:] if line[0] == "exec" else line for line in lines]


# -- mutations -----------------------------------------------------------------------------------


Mutation = Callable[[Manifest], None]


def put(*keys: Any) -> Mutation:
    """A mutation: set the last of ``keys`` at the place the others name; ``...`` deletes.

    The first key is a kind, which must be the only one, or ``Kind/name``.
    """
    *place, last, value = keys

    def mutate(whole: Manifest) -> None:
        target = whole[place[0]] if "/" in place[0] else only(whole, place[0])
        for key in place[1:]:
            target = target[key]
        if value is ...:
            del target[last]
        else:
            target[last] = value

    return mutate
