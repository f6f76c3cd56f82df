"""The manifests are valid, and agree with themselves, the Dockerfile and the service.

Every rule (tests/manifests_kit.py) is proven by one mutation that it must report. What only kubectl
can put together, the overlays, is asked the same by tests/manifests/rendered.py.
"""

from __future__ import annotations

import copy
import functools
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from manifests_kit import Manifest, findings, manifest, put, tool

ROOT = Path(__file__).resolve().parents[2]
RELEASES = re.search(r"^RELEASES := (.+)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
K8S = ROOT / "k8s"

tools = tool("manifests")


def documents(*names: str) -> list[Any]:
    """All documents of these files below k8s/."""
    return [d for name in names for d in yaml.safe_load_all((K8S / name).read_text())]


@functools.cache
def files() -> dict[str, Manifest]:
    """What can be judged as it lies in the files, without kubectl."""
    claims = documents("claims/training.yaml", "claims/models.yaml")
    return {
        "service": manifest(documents("deployment.yaml")),
        "trainer": manifest([*claims, *documents("trainer/job.yaml")]),
        "publish": manifest([*claims, *documents("publish/pod.yaml")]),
    }


def words(value: object) -> str:
    """A test's name: of its arguments, the texts."""
    return value if isinstance(value, str) else ""


def core() -> list[tuple[str, Any]]:
    """Every document of Kubernetes' own kinds in k8s/, a resource or a whole file."""
    paths = [p for p in sorted(K8S.rglob("*.yaml")) if "patches" not in p.parts]
    found = [
        (f"{path.relative_to(K8S)} {document['kind']}", document)
        for path in paths
        if path.name != "kustomization.yaml"
        for document in yaml.safe_load_all(path.read_text())
    ]
    return [(name, d) for name, d in found if not d["apiVersion"].startswith(tools.OPERATOR)]


@pytest.mark.parametrize("name", ["service", "trainer", "publish"])
def test_the_manifest_agrees_with_itself_the_image_and_the_service(name):
    assert findings(files()[name]) == []


def test_the_file_to_apply_alone_is_the_base():
    base = [yaml.safe_load(path.read_text()) for path in sorted((K8S / "base").glob("*.yaml"))]
    resources = [d for d in base if d["kind"] != "Kustomization"]

    assert manifest(documents("deployment.yaml")) == manifest(resources)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(("name", "document"), core(), ids=words)
def test_the_strict_schema_of_a_release_accepts_the_manifest(name, document, release):
    kubernetes_validate.validate(document, release, strict=True)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("kind", sorted(files()["service"]))
def test_the_strict_schema_refuses_a_field_that_does_not_exist(kind, release):
    broken = copy.deepcopy(files()["service"][kind])
    broken["specification"] = {}

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, release, strict=True)


POD = ("Deployment", "spec", "template", "spec")
BOX = (*POD, "containers", 0)
NAME = "app.kubernetes.io/name"
PORTS = ("Service", "spec", "ports", 0)
NOTES = ("Deployment", "spec", "template", "metadata", "annotations")
BUDGET = ("PodDisruptionBudget", "spec", "selector", "matchLabels")
SPREAD = (*POD, "topologySpreadConstraints", 0, "labelSelector", "matchLabels")
JOB = ("Job", "spec", "template", "spec")
TRAINER = (*JOB, "containers", 0)
DESK = ("Pod", "spec", "containers", 0)

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
    "needs ServiceAccount/default": put(*POD, "serviceAccountName", "default"),
    "needs ConfigMap/x": put(*BOX, "envFrom", 0, "configMapRef", "name", "x"),
    "refuses the ConfigMap": put("ConfigMap", "data", "HEARTDX_LOG_LEVL", "INFO"),
    "no setting of anything": put("ConfigMap", "data", "LOG_LEVEL", "INFO"),
    "admin port is not the one": put("ConfigMap", "data", "HEARTDX_ADMIN_PORT", "9000"),
    "would be pulled": put(*BOX, "imagePullPolicy", "Always"),
    "image has another name": put(*BOX, "image", "heartdx:latest"),
    "image's tag is neither": put(*BOX, "image", "registry.example.com/heart-api:latest"),
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
    "shares the node's namespaces": put(*POD, "hostNetwork", True),
    "mounted over what the image holds": put(*BOX, "volumeMounts", 0, "mountPath", "/app/models"),
    "only /tmp may be": put(*BOX, "volumeMounts", 0, "mountPath", "/cache"),
    "do not have the same names": put(*POD, "volumes", 0, "name", "scratch"),
    "no request or no limit": put(*BOX, "resources", "limits", "memory", ...),
    "request is over the limit": put(*BOX, "resources", "requests", "memory", "1Gi"),
    "no emptyDir with a limit": put(*POD, "volumes", 0, "emptyDir", {}),
}
OF_THE_TRAINER = {
    "tried again and again": put("Job", "spec", "backoffLimit", 6),
    "stays for ever": put("Job", "spec", "ttlSecondsAfterFinished", ...),
    "is no command": put(*TRAINER, "args", ["--jobs", "2", "--processes", "3"]),
    "something else than its image": put(*TRAINER, "command", ["heartdx", "train"]),
    "another number of processes": put(*TRAINER, "resources", "limits", "cpu", "4"),
    "may use cores": put(*TRAINER, "args", ...),
    "writes where nothing can be written": put(*TRAINER, "volumeMounts", 1, "mountPath", "/data"),
    "PersistentVolumeClaim/x": put(*JOB, "volumes", 1, "persistentVolumeClaim", "claimName", "x"),
    "the image has another name": put(*TRAINER, "image", "heartdx:latest"),
    "uid is not": put(*JOB, "securityContext", "runAsUser", 0),
}
OF_THE_DESK = {
    "models come from no claim": put(*DESK, "env", 0, "value", "/app/models"),
    "public key lies in no ConfigMap": put(*DESK, "env", 2, "value", "/tmp/public.pem"),
    "can be written by who should only read": put(*DESK, "volumeMounts", 3, "readOnly", False),
    "needs ConfigMap/keys": put("Pod", "spec", "volumes", 3, "configMap", "name", "keys"),
}
CASES = [
    (name, expected, mutation)
    for name, mutations in (
        ("service", MUTATIONS),
        ("trainer", OF_THE_TRAINER),
        ("publish", OF_THE_DESK),
    )
    for expected, mutation in mutations.items()
]


@pytest.mark.parametrize(("name", "expected", "mutation"), CASES, ids=words)
def test_a_broken_manifest_is_reported(name, expected, mutation):
    broken = copy.deepcopy(files()[name])

    mutation(broken)

    assert [line for line in findings(broken) if expected in line], findings(broken)


# -- what tools/manifests.py writes --------------------------------------------------------------


def test_the_written_manifests_are_up_to_date(capsys):
    assert tools.main(["--check"]) == 0, capsys.readouterr().err


def sources(folder: Path) -> Path:
    """The sources of a small cluster."""
    for place in ("base", "monitoring"):
        (folder / "k8s" / place).mkdir(parents=True)
    (folder / "ops" / "prometheus" / "rules").mkdir(parents=True)
    (folder / "ops" / "grafana").mkdir(parents=True)
    (folder / "k8s/base/kustomization.yaml").write_text("resources: [one.yaml, two.yaml]\n")
    (folder / "k8s/base/one.yaml").write_text("kind: One\n")
    (folder / "k8s/base/two.yaml").write_text("# why\nkind: Two\n")
    for name in ("alerts", "recording"):
        text = (
            f"groups:\n- name: {name}\n  rules:\n  - alert: A\n    expr: |\n      up\n      == 0\n"
        )
        (folder / f"ops/prometheus/rules/{name}.yaml").write_text(text)
    (folder / "ops/grafana/service_level.json").write_text('{\n "title": "Größe"\n}\n')
    return folder


def test_the_base_keeps_its_comments_and_order_in_one_file(tmp_path):
    tools.main([], root=sources(tmp_path))

    made = (tmp_path / "k8s/deployment.yaml").read_text()

    assert made.startswith("# Written by `python tools/manifests.py` from k8s/base; edit there.\n")
    assert made.endswith("kind: One\n---\n# why\nkind: Two\n")


def test_rules_and_dashboards_reach_the_cluster_as_they_are(tmp_path):
    tools.main([], root=sources(tmp_path))

    rule = yaml.safe_load((tmp_path / "k8s/monitoring/prometheusrule.yaml").read_text())
    board = yaml.safe_load((tmp_path / "k8s/monitoring/dashboards.yaml").read_text())
    assert [group["name"] for group in rule["spec"]["groups"]] == ["alerts", "recording"]
    assert rule["spec"]["groups"][0]["rules"] == [{"alert": "A", "expr": "up\n== 0\n"}]
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert board["metadata"]["name"] == "heart-api-dashboard-service-level"
    assert board["data"] == {"service_level.json": '{\n "title": "Größe"\n}\n'}


def test_a_changed_source_is_named_and_written_again(tmp_path, capsys):
    assert tools.main([], root=sources(tmp_path)) == 0
    assert tools.main(["--check"], root=tmp_path) == 0
    rules = tmp_path / "ops/prometheus/rules/alerts.yaml"
    rules.write_text(rules.read_text().replace("== 0", "== 1"))
    capsys.readouterr()

    assert tools.main(["--check"], root=tmp_path) == 1
    assert capsys.readouterr().err == (
        "k8s/monitoring/prometheusrule.yaml: out of date; run `make manifests`\n"
    )
    assert tools.main([], root=tmp_path) == 0
    assert tools.main(["--check"], root=tmp_path) == 0


@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        ("k8s/base/kustomization.yaml", "resources: []\nnamePrefix: x-\n", "namePrefix would be"),
        (
            "ops/prometheus/rules/alerts.yaml",
            "groups: []\nmore: []\n",
            "groups of rules and",
        ),
        ("ops/grafana/service_level.json", None, "holds no *.json"),
    ],
)
def test_a_source_that_would_be_lost_in_part_is_refused(tmp_path, capsys, path, text, told):
    folder = sources(tmp_path)
    if text is None:
        (folder / path).unlink()
    else:
        (folder / path).write_text(text)

    assert tools.main([], root=folder) == 1
    assert told in capsys.readouterr().err
    assert not (folder / "k8s/deployment.yaml").exists()


def test_without_kubectl_a_rendering_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(tools.ManifestError, match=r"kubectl is missing.*kubernetes\.io/docs/tasks"):
        tools.render(K8S / "base")


def test_every_folder_to_apply_is_rendered_by_the_checks():
    found = {str(p.parent.relative_to(ROOT)) for p in K8S.rglob("kustomization.yaml")}

    assert found - set(tools.KUSTOMIZATIONS) == {"k8s/claims", "k8s/monitoring"}  # parts of others
    assert set(tools.KUSTOMIZATIONS) <= found
