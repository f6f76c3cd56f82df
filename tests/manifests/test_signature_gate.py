"""The init container of the production overlay, run for real: only a signed model lets a pod start.

The command and the settings are the overlay's own; the folders it mounts are folders here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from heartdx import signing
from manifests_kit import ROOT
from training_kit import ONE_THREAD

PATCHES = ROOT / "k8s" / "overlays" / "production" / "patches"
MOUNTS = {"/models": "models", "/etc/heartdx/signing": "signing", "/etc/heartdx/keys": "keys"}


def document(name: str):
    return yaml.safe_load((PATCHES / name).read_text())


@pytest.fixture
def pod(tmp_path, tiny_bundle) -> Path:
    """A signed model, the public key beside it, as a pod mounts them."""
    keys = signing.new_key(tmp_path / "private")
    bundle = tiny_bundle.write(tmp_path / "models")
    signing.sign(bundle, keys.private)
    (tmp_path / "signing").mkdir()
    shutil.copy(keys.public, tmp_path / "signing" / "public.pem")
    return tmp_path


@pytest.fixture(scope="session")
def tiny_bundle():
    """tests/service/tiny_bundle.py, which needs no training."""
    sys.path.insert(0, str(ROOT / "tests" / "service"))
    try:
        import tiny_bundle
    finally:
        sys.path.pop(0)
    return tiny_bundle


def verify(pod: Path) -> subprocess.CompletedProcess[str]:
    """What the init container does, with the overlay's command and settings."""
    (container,) = document("deployment.yaml")["spec"]["template"]["spec"]["initContainers"]
    settings = document("configmap.yaml")["data"]
    for mount, folder in MOUNTS.items():
        settings = {k: v.replace(mount, str(pod / folder), 1) for k, v in settings.items()}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        container["command"],
        cwd=pod,
        env={"PATH": path, **ONE_THREAD, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_signed_model_lets_the_pod_start(pod):
    done = verify(pod)

    assert done.returncode == 0, done.stderr
    assert "signed with the key of HEARTDX_PUBLIC_KEY" in done.stdout


def bundle_of(pod: Path) -> Path:
    return pod / "models" / "bundles" / (pod / "models" / "current").read_text().strip()


def unsigned(pod: Path) -> None:
    (bundle_of(pod) / "model.sig").unlink()


def changed(pod: Path) -> None:
    path = next(bundle_of(pod).glob("*/*.json"))
    path.write_bytes(path.read_bytes() + b" ")


def foreign(pod: Path) -> None:
    other = signing.new_key(pod / "other")
    shutil.copy(other.public, pod / "signing" / "public.pem")


def no_key(pod: Path) -> None:
    (pod / "signing" / "public.pem").unlink()


def no_model(pod: Path) -> None:
    shutil.rmtree(pod / "models")
    (pod / "models").mkdir()


@pytest.mark.parametrize(
    ("attack", "code"), [(unsigned, 6), (changed, 6), (foreign, 6), (no_key, 6), (no_model, 7)]
)
def test_anything_else_keeps_the_pod_from_starting(pod, attack, code):
    attack(pod)

    assert verify(pod).returncode == code
