"""docs/deploy.md, line by line in one shell: what needs no cluster runs, the rest has its reason.

``kubectl`` is a stub that knows one pod, ``heart-publish``: what is copied there lies in a folder,
and what is executed there runs here with the settings of k8s/publish/pod.yaml.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from heartdx.settings import Settings, read, variable
from manifests_kit import ROOT, made_by_command, tool
from training_kit import ONE_THREAD

PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
NEEDS_A_CLUSTER = "it asks a cluster, which no test machine has"
NEEDS_AN_ENGINE = "tests/image builds the same Dockerfile by `make test-image`"
NOT_RUN = {
    "make pipeline": "tests/runbook/test_bootstrap.py runs it in a fresh copy",
    "make minikube-demo": "tests/manifests/test_minikube_demo.py runs it against a played cluster",
    "minikube ": NEEDS_A_CLUSTER,
    'eval "$(minikube docker-env)"': NEEDS_A_CLUSTER,
    "helm install ": NEEDS_A_CLUSTER,
    "docker build ": NEEDS_AN_ENGINE,
    "docker push ": "it needs a registry of one's own",
    "kubectl apply ": NEEDS_A_CLUSTER + "; the folders are rendered by `make check-manifests`",
    "kubectl create ": NEEDS_A_CLUSTER + "; tests/manifests/rendered.py runs them without one",
    "kubectl rollout ": NEEDS_A_CLUSTER,
    "kubectl wait ": NEEDS_A_CLUSTER,
    "kubectl get ": NEEDS_A_CLUSTER,
    "kubectl delete ": NEEDS_A_CLUSTER,
    "kubectl port-forward ": NEEDS_A_CLUSTER,
}
"""How a line begins that is not run, and why."""
WORDS_IN_FIVE_MINUTES = 1250
STUB = r"""#!/bin/bash
[ "$2 $3" = '--namespace heartdx' ] || exit 9
case $1 in
  cp) exec cp -r "$4" "$POD${5#heart-publish:}" ;;
  exec) [ "$4 $5" = 'heart-publish --' ] || exit 9
    set -- "${@:6}"
    [ "$1" != mkdir ] || set -- mkdir -p "$POD$3"
    exec env $POD_SETTINGS "$@" ;;
esac
exit 9
"""


def lines() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def is_run(line: str) -> bool:
    return not line.startswith(tuple(NOT_RUN))


@dataclass(frozen=True)
class Ran:
    """A line of the page, its exit code and output."""

    line: str
    code: int
    output: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with a model, and a pod beside it."""
    folder = tmp_path_factory.mktemp("deploy")
    sys.path.insert(0, str(ROOT / "tests" / "service"))
    try:
        import tiny_bundle
    finally:
        sys.path.pop(0)
    tiny_bundle.write(folder / "models")
    (folder / "pod" / "models").mkdir(parents=True)
    (folder / "pod" / "signing").mkdir()
    (folder / "bin").mkdir()
    (folder / "bin" / "kubectl").write_text(STUB)
    (folder / "bin" / "kubectl").chmod(0o755)
    return folder


def pod_settings(pod: Path) -> str:
    """The settings of the publishing pod, its mounts being folders here."""
    document = yaml.safe_load((ROOT / "k8s/publish/pod.yaml").read_text())
    found = {entry["name"]: entry["value"] for entry in document["spec"]["containers"][0]["env"]}
    found[variable("models_dir")] = str(pod) + found[variable("models_dir")]
    found[variable("public_key")] = str(pod / "signing" / "public.pem")
    return " ".join(f"{name}={value}" for name, value in found.items())


@pytest.fixture(scope="module")
def ran(place: Path) -> list[Ran]:
    wanted = [line for line in lines() if is_run(line)]
    pod = place / "pod"
    # What `kubectl create configmap` and the mount do together.
    mounting = f"cp signing/public.pem '{pod}/signing/'"
    steps = []
    for number, line in enumerate(wanted):
        steps.append(f"{{ {line}\n}} > {number}.out 2>&1\necho $? > {number}.code")
        steps += [mounting] if line.startswith("heartdx model key") else []
    foreign = ("HEARTDX_", "MODEL_PATH", "MLFLOW_", "PROMETHEUS_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    path = f"{place / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    more = {"PATH": path, "POD": str(pod), "POD_SETTINGS": pod_settings(pod), **ONE_THREAD}
    subprocess.run(
        ["bash", "-c", "\n".join(steps)], cwd=place, env={**kept, **more}, timeout=120, check=True
    )
    results = [(place / f"{number}.code", place / f"{number}.out") for number in range(len(wanted))]
    return [
        Ran(line, int(code.read_text()), output.read_text())
        for line, (code, output) in zip(wanted, results, strict=True)
    ]


def test_every_line_is_run_and_succeeds_or_has_a_reason(ran):
    assert [one for one in ran if one.code != 0] == []
    assert len(ran) >= 6


@pytest.mark.parametrize("beginning", NOT_RUN)
def test_every_reason_not_to_run_a_line_is_needed(beginning):
    assert [line for line in lines() if line.startswith(beginning)]


def test_the_pages_way_puts_a_signed_model_into_the_pods_folder(ran, place):
    listed = next(one.output for one in ran if one.line.endswith("heartdx model list"))
    digest = (place / "models" / "current").read_text().strip()

    assert (place / "pod" / "models" / "current").read_text().strip() == digest
    (row,) = [line.split() for line in listed.splitlines()[1:]]
    assert row[0] == digest[:12]
    assert row[-3:] == ["current", "yes", "verified"]


def test_an_unsigned_model_cannot_be_published_the_same_way(ran, place):
    (bundle,) = (place / "pod" / "models" / "bundles").iterdir()
    signature = bundle / "model.sig"
    kept = signature.read_bytes()
    signature.unlink()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    settings = dict(entry.split("=", 1) for entry in pod_settings(place / "pod").split())

    refused = subprocess.run(
        ["heartdx", "model", "use", bundle.name],
        env={**ONE_THREAD, **settings, "PATH": path},
        capture_output=True,
        check=False,
    )

    signature.write_bytes(kept)
    assert refused.returncode == 6


def test_the_objects_made_by_hand_are_the_three_that_the_overlay_does_not_hold():
    assert made_by_command() == {
        "ConfigMap/heart-api-signing",
        "Secret/heart-api-keys",
        "Secret/heart-api-tls",
    }


def test_their_files_have_the_names_that_the_settings_ask_for():
    data = yaml.safe_load((ROOT / "k8s/overlays/production/patches/configmap.yaml").read_text())[
        "data"
    ]
    chosen: Settings = read(data)

    given = {Path(name).name for name in re.findall(r"--from-file=(\S+)", PAGE)}
    assert given == {chosen.public_key.name, chosen.api_keys_file.name}


def test_every_folder_that_is_applied_is_one_that_the_checks_render():
    applied = set(re.findall(r"kubectl apply .*?-k (\S+?)(?=[`\s])", PAGE))

    assert applied == set(tool("manifests").KUSTOMIZATIONS) - {"k8s/base"}
    assert set(re.findall(r"kubectl apply .*?-f (k8s/\S+?)(?=[`\s])", PAGE)) == {
        "k8s/deployment.yaml",
        "k8s/overlays/production/namespace.yaml",
    }


def test_the_image_is_the_one_that_the_overlay_takes():
    kustomization = yaml.safe_load(
        (ROOT / "k8s/overlays/production/kustomization.yaml").read_text()
    )
    (image,) = kustomization["images"]

    assert f"docker push {image['newName']}:{image['newTag']}\n" in PAGE


def test_every_setting_target_and_file_that_the_page_names_exists():
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert set(re.findall(r"`make ([a-z-]+)`", PAGE)) <= targets
    for name in re.findall(r"\]\((?!http)([^)#\s]+)", PAGE):
        assert (ROOT / "docs" / name).exists(), name
    for name in re.findall(r"`((?:k8s|tools|ops)/[\w./-]*)`", PAGE):
        assert (ROOT / name).exists(), name


def test_the_page_is_read_in_five_minutes():
    prose = re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)

    assert len(prose.split()) < WORDS_IN_FIVE_MINUTES
