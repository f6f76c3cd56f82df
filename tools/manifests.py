"""Write the manifests that others are the source of: `python tools/manifests.py [--check]`.

- ``k8s/deployment.yaml``: k8s/base in one file, for a plain ``kubectl apply -f``;
- ``k8s/monitoring/prometheusrule.yaml``: the rules of ops/prometheus/rules;
- ``k8s/monitoring/dashboards.yaml``: the dashboards of ops/grafana, for Grafana's sidecar.

With ``--check`` nothing is written; a file that is out of date is named and the exit code is 1.
Only ``render`` needs kubectl, which is what the checks of all renderings call.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
KUSTOMIZATIONS = (
    "k8s/base",
    "k8s/overlays/minikube",
    "k8s/overlays/production",
    "k8s/trainer",
    "k8s/publish",
)
"""What can be applied with ``kubectl apply -k``."""

OPERATOR = "monitoring.coreos.com/"
"""The group of kinds that a Prometheus operator brings; Kubernetes' own schemas lack them."""

HOW_TO_GET_KUBECTL = (
    "kubectl is missing; it renders the overlays and asks no cluster. Any release from 1.27 on "
    "does: https://kubernetes.io/docs/tasks/tools/"
)

HEAD = """\
# Written by `python tools/manifests.py` from k8s/base; edit there.
#
# heart-api: one service of heartdx. `kubectl apply -f k8s/deployment.yaml` is all it takes once
# the image heart-api:latest is in the cluster (README: eval "$(minikube docker-env)"; docker
# build). The model is in the image; nothing is mounted over it.
"""
WRITTEN = """\
# Written by `python tools/manifests.py` from {source}; edit there.
# yamllint disable rule:line-length
"""
LABELS = {"app.kubernetes.io/name": "heart-api", "app.kubernetes.io/part-of": "heartdx"}
DASHBOARD = {"grafana_dashboard": "1"}
"""The label that Grafana's sidecar looks for."""


class ManifestError(Exception):
    """A source is not as this tool needs it; the text says what to do."""


class Dumper(yaml.SafeDumper):
    """Indented sequences, and texts of several lines as they are."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, indentless=False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Dumper.add_representer(str, _text)


def main(argv: Sequence[str] | None = None, *, root: Path = ROOT) -> int:
    """Write what differs, or with ``--check`` name it."""
    parser = argparse.ArgumentParser(description="write k8s/ from its sources")
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    checking = parser.parse_args(argv).check
    try:
        wanted = written(root)
    except ManifestError as refusal:
        print(f"manifests: {refusal}", file=sys.stderr)
        return 1
    old = [name for name, text in wanted.items() if _read(root / name) != text]
    for name in old:
        if checking:
            print(f"{name}: out of date; run `make manifests`", file=sys.stderr)
        else:
            (root / name).write_text(wanted[name], encoding="utf-8")
            print(f"wrote {name}", file=sys.stderr)
    return 1 if checking and old else 0


def written(root: Path = ROOT) -> dict[str, str]:
    """Every file that this tool writes, and its text."""
    return {
        "k8s/deployment.yaml": HEAD + one_file(root / "k8s" / "base"),
        "k8s/monitoring/prometheusrule.yaml": WRITTEN.format(source="ops/prometheus/rules")
        + _dump([prometheus_rule(root / "ops" / "prometheus" / "rules")]),
        "k8s/monitoring/dashboards.yaml": WRITTEN.format(source="ops/grafana")
        + _dump(dashboards(root / "ops" / "grafana")),
    }


def one_file(base: Path) -> str:
    """The resources of a kustomization with their comments, in its order.

    That is its rendering as long as it changes nothing; ``make check-manifests`` asks kubectl.
    """
    kustomization = yaml.safe_load((base / "kustomization.yaml").read_text(encoding="utf-8"))
    if extra := kustomization.keys() - {"apiVersion", "kind", "resources"}:
        raise ManifestError(f"{base}: {', '.join(sorted(extra))} would be lost in one file")
    parts = [(base / name).read_text(encoding="utf-8") for name in kustomization["resources"]]
    return "---\n".join(parts)


def prometheus_rule(rules: Path) -> dict[str, Any]:
    """All groups of the rule files as one PrometheusRule."""
    groups = [group for path in _found(rules, "*.yaml") for group in _groups(path)]
    return {
        "apiVersion": f"{OPERATOR}v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "heart-api", "labels": LABELS},
        "spec": {"groups": groups},
    }


def _groups(path: Path) -> list[Any]:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    if list(document) != ["groups"]:
        raise ManifestError(f"{path}: expected groups of rules and nothing else")
    groups: list[Any] = document["groups"]
    return groups


def dashboards(folder: Path) -> list[dict[str, Any]]:
    """A ConfigMap for each dashboard."""
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": f"heart-api-dashboard-{path.stem}".replace("_", "-"),
                "labels": LABELS | DASHBOARD,
            },
            "data": {path.name: path.read_text(encoding="utf-8")},
        }
        for path in _found(folder, "*.json")
    ]


def _found(folder: Path, pattern: str) -> list[Path]:
    found = sorted(folder.glob(pattern))
    if not found:
        raise ManifestError(f"{folder}: holds no {pattern}")
    return found


def _dump(documents: list[dict[str, Any]]) -> str:
    return yaml.dump_all(
        documents, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=float("inf")
    )


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def render(folder: Path) -> list[Any]:
    """The documents of a kustomization, rendered by kubectl without a cluster.

    Raises
    ------
    ManifestError
        There is no kubectl, or it refuses.
    """
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise ManifestError(HOW_TO_GET_KUBECTL)
    done = subprocess.run(
        [kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ManifestError(f"{folder}: kubectl kustomize: {done.stderr.strip()}")
    return list(yaml.safe_load_all(done.stdout))


if __name__ == "__main__":
    sys.exit(main())
