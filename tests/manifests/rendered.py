"""What kubectl makes of every kustomization: valid, in agreement with itself, broken when broken.

Called by `make check-manifests`, which wants kubectl; it asks no cluster. Its name keeps it out of
`make test`.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import re
import shlex
import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml

from heartdx import settings
from manifests_kit import (
    ROOT,
    Manifest,
    findings,
    made_by_command,
    manifest,
    of_kind,
    only,
    put,
    references,
    tool,
)

RELEASES = re.search(r"^RELEASES := (.+)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
PRODUCTION = "k8s/overlays/production"
LARGEST_OBJECT = 200_000
"""Bytes; `kubectl apply` writes the whole object into an annotation, which may have 262,144."""

tools = tool("manifests")


@functools.cache
def rendered(folder: str) -> Manifest:
    return manifest(tools.render(ROOT / folder))


@pytest.mark.parametrize("folder", tools.KUSTOMIZATIONS)
def test_a_rendering_agrees_with_itself_the_image_and_the_service(folder):
    assert findings(rendered(folder)) == []


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("folder", tools.KUSTOMIZATIONS)
def test_the_strict_schema_of_a_release_accepts_every_document(folder, release):
    own = [d for d in rendered(folder).values() if d["apiVersion"].startswith(tools.OPERATOR)]
    for document in rendered(folder).values():
        if document not in own:
            kubernetes_validate.validate(document, release, strict=True)

    assert {d["kind"] for d in own} <= {"ServiceMonitor", "PrometheusRule"}


@pytest.mark.parametrize("release", RELEASES)
def test_the_strict_schema_refuses_a_field_that_an_overlay_invents(release):
    broken = copy.deepcopy(only(rendered(PRODUCTION), "HorizontalPodAutoscaler"))
    broken["spec"]["minimumReplicas"] = 2

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, release, strict=True)


def test_the_file_to_apply_alone_is_what_kubectl_makes_of_the_base():
    alone = list(yaml.safe_load_all((ROOT / "k8s/deployment.yaml").read_text()))

    assert manifest(alone) == rendered("k8s/base")


def test_on_minikube_the_service_is_the_base_unchanged():
    here, base = rendered("k8s/overlays/minikube"), rendered("k8s/base")

    assert {key: here[key] for key in base} == base


@pytest.mark.parametrize("folder", ["k8s/overlays/minikube", PRODUCTION])
def test_rules_and_dashboards_of_this_repository_are_in_the_cluster(folder):
    whole = rendered(folder)
    rules = [
        group
        for path in sorted((ROOT / "ops/prometheus/rules").glob("*.yaml"))
        for group in yaml.safe_load(path.read_text())["groups"]
    ]
    boards = {
        name: json.loads(text)
        for board in of_kind(whole, "ConfigMap")
        if board["metadata"]["labels"].get("grafana_dashboard") == "1"
        for name, text in board["data"].items()
    }

    assert rules
    assert boards
    assert only(whole, "PrometheusRule")["spec"]["groups"] == rules
    assert boards == {
        p.name: json.loads(p.read_text()) for p in (ROOT / "ops/grafana").glob("*.json")
    }


@pytest.mark.parametrize("folder", tools.KUSTOMIZATIONS)
def test_every_object_is_small_enough_to_be_applied(folder):
    sizes = {key: len(json.dumps(document)) for key, document in rendered(folder).items()}

    assert {key: size for key, size in sizes.items() if size > LARGEST_OBJECT} == {}


def test_production_needs_just_the_objects_that_the_page_makes():
    whole = rendered(PRODUCTION)

    assert references(whole) - whole.keys() == made_by_command()
    assert not of_kind(whole, "Secret")


def test_the_pages_commands_make_these_objects_with_the_files_that_are_mounted(tmp_path):
    whole = rendered(PRODUCTION)
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    signing, keys = tmp_path / "signing" / "public.pem", tmp_path / "keys.txt"
    signing.parent.mkdir()
    for path in (signing, keys):
        path.write_text("x")
    made = {}
    for line in re.findall(r"^(kubectl create (?!secret tls).+)$", page, re.MULTILINE):
        command = [*shlex.split(line), "--dry-run=client", "--output", "yaml"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        document = yaml.safe_load(done.stdout)
        assert document["metadata"]["namespace"] == "heartdx"
        made[f"{document['kind']}/{document['metadata']['name']}"] = set(document["data"])

    chosen = settings.read(whole["ConfigMap/heart-api"]["data"])
    assert made == {
        "ConfigMap/heart-api-signing": {chosen.public_key.name},
        "Secret/heart-api-keys": {chosen.api_keys_file.name},
    }


def cluster_commands(page: str) -> list[str]:
    """Its kubectl lines that read no file of the machine."""
    lines = re.findall(r"^(kubectl .+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    return [line for line in lines if not line.startswith(("kubectl create ", "kubectl cp "))]


@pytest.mark.parametrize("page", ["README.md", "docs/deploy.md", "docs/runbooks/README.md"])
def test_kubectl_understands_every_command_of_a_page_and_only_lacks_a_cluster(page, tmp_path):
    (tmp_path / "config").write_text(
        "{apiVersion: v1, kind: Config, current-context: none,"
        " clusters: [{name: none, cluster: {server: 'http://127.0.0.1:9'}}],"
        " users: [{name: none, user: {}}],"
        " contexts: [{name: none, context: {cluster: none, user: none}}]}"
    )
    said = {}
    for line in cluster_commands(page):
        command = shlex.split(line.replace("$(cat models/current)", "DIGEST").split(" >")[0])
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "KUBECONFIG": str(tmp_path / "config")},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        said[line] = done.stderr.strip().splitlines()[-1:]

    assert said
    assert {line: end for line, end in said.items() if "refused" not in str(end)} == {}


def test_the_runbooks_commands_name_what_production_has():
    whole = rendered(PRODUCTION)
    commands = cluster_commands("docs/runbooks/README.md")
    here = [c for c in commands if "--namespace monitoring" not in c]
    deployment = only(whole, "Deployment")
    template = deployment["spec"]["template"]
    ports = {p["containerPort"] for c in template["spec"]["containers"] for p in c["ports"]}

    assert {name for c in here for name in re.findall(r"deployment/(\S+)", c)} == {
        deployment["metadata"]["name"]
    }
    assert {int(p) for c in here for p in re.findall(r" \d+:(\d+)", c)} == ports
    assert {n for c in here for n in re.findall(r"--namespace (\S+)", c)} == {
        deployment["metadata"]["namespace"]
    }
    for key, value in (pair.split("=") for c in here for pair in re.findall(r" -l (\S+)", c)):
        assert template["metadata"]["labels"][key] == value
    assert {n for c in here for n in re.findall(r" -c (\S+)", c)} == {
        c["name"] for c in template["spec"]["containers"]
    }
    publisher = only(rendered("k8s/publish"), "Pod")["metadata"]["name"]
    assert {n for c in here for n in re.findall(r"exec .*?(\S+) --", c)} == {publisher}


def test_in_production_everything_lies_in_one_namespace_of_the_strictest_standard():
    whole = rendered(PRODUCTION)
    namespace = whole.pop("Namespace/heartdx")

    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {document["metadata"]["namespace"] for document in whole.values()} == {"heartdx"}
    whole["Namespace/heartdx"] = namespace


# -- each rule, broken once ----------------------------------------------------------------------

POD = ("Deployment", "spec", "template", "spec")
BOX = (*POD, "containers", 0)
FIRST = (*POD, "initContainers", 0)
SCALER = ("HorizontalPodAutoscaler", "spec")
RULES = ("Ingress", "spec", "rules", 0)
BACKEND = (*RULES, "http", "paths", 0, "backend", "service")
DENY = ("NetworkPolicy/default-deny", "spec")
ADMIT = ("NetworkPolicy/heart-api", "spec")
CONFIG = ("ConfigMap/heart-api", "data")
MONITOR = ("ServiceMonitor", "spec")
OTHER = {"name": "recommender"}


def add(key: str, document: Any):
    """A mutation: one more document."""

    def mutate(whole: Manifest) -> None:
        whole[key] = document

    return mutate


def remove(kind: str):
    """A mutation: no document of this kind."""

    def mutate(whole: Manifest) -> None:
        for key in [key for key in whole if key.split("/")[0] == kind]:
            del whole[key]

    return mutate


def mounted(name: str, **changes: Any):
    """A mutation of the mount of a volume in the container that serves."""

    def mutate(whole: Manifest) -> None:
        box = only(whole, "Deployment")["spec"]["template"]["spec"]["containers"][0]
        next(m for m in box["volumeMounts"] if m["name"] == name).update(changes)

    return mutate


MUTATIONS = {
    "fight over the number": put("Deployment", "spec", "replicas", 2),
    "scales something that is not there": put(*SCALER, "scaleTargetRef", "name", "heart"),
    "most is less than its least": put(*SCALER, "maxReplicas", 1),
    "takes the last pod away": put(*SCALER, "minReplicas", 1),
    "two autoscalers": add(
        "VerticalPodAutoscaler/heart-api",
        {"kind": "VerticalPodAutoscaler", "metadata": OTHER, "spec": {}},
    ),
    "served without TLS": put("Ingress", "spec", "tls", 0, "hosts", ["other.example.com"]),
    "something else than the public port": put(*BACKEND, "port", "name", "admin"),
    "Ingress leads to something else": put(*BACKEND, "name", "heart"),
    "needs Secret/tls": put("Ingress", "spec", "tls", 0, "secretName", "tls"),
    "needs Secret/keys": put(*POD, "volumes", 2, "secret", "secretName", "keys"),
    "not a ClusterIP on 8000": put("Service", "spec", "type", "LoadBalancer"),
    "every pod of the cluster reaches": remove("NetworkPolicy"),
    "anybody may ask": put(*CONFIG, "HEARTDX_API_KEYS_FILE", ...),
    "no policy denies": put(*DENY, "ingress", [{}]),
    "leaves one direction open": put(*DENY, "policyTypes", ["Ingress"]),
    "gets a way out": put(*ADMIT, "egress", [{}]),
    "NetworkPolicy selects none": put(*ADMIT, "podSelector", "matchLabels", OTHER),
    "admits more than one program": put(*ADMIT, "ingress", 0, "from", ...),
    "one program of one namespace": put(*ADMIT, "ingress", 1, "from", 0, "podSelector", ...),
    "admits to a port": put(*ADMIT, "ingress", 1, "ports", 0, "port", "metrics"),
    "one program to each port": put(*ADMIT, "ingress", 0, "ports", ...),
    "no init container verifies": put(*FIRST, "command", ["true"]),
    "another image than what serves": put(*FIRST, "image", "registry.example.com/heart-api:0.0.9"),
    "unsigned model": put(*CONFIG, "HEARTDX_REQUIRE_SIGNATURE", "off"),
    "models come from no claim": put(*CONFIG, "HEARTDX_MODELS_DIR", "/app/models"),
    "public key lies in no ConfigMap": put(*CONFIG, "HEARTDX_PUBLIC_KEY", "/models/public.pem"),
    "API keys lie in no Secret": put(*CONFIG, "HEARTDX_API_KEYS_FILE", "/models/keys.txt"),
    "mounted over what the image holds": mounted("models", mountPath="/app/models"),
    "can be written by who should only read": mounted("models", readOnly=False),
    "admin port is not the one": put(*CONFIG, "HEARTDX_ADMIN_PORT", "9001"),
    "no other pod reaches": put(*CONFIG, "HEARTDX_ADMIN_ADDRESS", "127.0.0.1"),
    "port without metrics": put(*MONITOR, "endpoints", 0, "port", "http"),
    "selects no Service": put(*MONITOR, "selector", "matchLabels", OTHER),
    "path that is not served": put(*MONITOR, "endpoints", 0, "path", "/prometheus"),
    "no Service has as its name": put(
        "PrometheusRule", "spec", "groups", 0, "rules", 0, "expr", 'up{job="heartdx"} == 0'
    ),
    "tag is neither": put(*BOX, "image", "registry.example.com/heart-api:latest"),
}


@pytest.mark.parametrize("expected", MUTATIONS)
def test_a_broken_rendering_is_reported(expected):
    broken = copy.deepcopy(rendered(PRODUCTION))

    MUTATIONS[expected](broken)

    assert [line for line in findings(broken) if expected in line], findings(broken)


def test_a_kustomization_that_does_not_render_is_an_error(tmp_path):
    (tmp_path / "kustomization.yaml").write_text("resources: [missing.yaml]\n")

    with pytest.raises(tools.ManifestError, match="kubectl kustomize"):
        tools.render(tmp_path)
