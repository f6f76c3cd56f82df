"""No secret and no registry host in what we add to the base, nor in how it came about.

The hosts are those this machine is set up with, read when the test runs and written nowhere. The
base's own layers are not searched: a site's base image may carry its way to its registry.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from image_kit import ROOT, docker

BASE = re.search(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.M)[1]
OURS = ("opt/heartdx/", "app/")
SETTINGS = (
    "/etc/pip.conf",
    "~/.pip/pip.conf",
    "~/.config/pip/pip.conf",
    "~/.config/uv/uv.toml",
    "~/.npmrc",
    "/etc/apt/sources.list",
    "/etc/apt/sources.list.d/*",
    "/etc/apt/apt.conf.d/*",
)
COMMENT = re.compile(r"(?m)^\s*(?:#|;|//).*$")
# Named in the packages' own descriptions, in two parts so that this file does not name them.
PUBLIC = {"pypi" + ".org", "files.pythonhosted" + ".org", "registry.npmjs" + ".org"}
SECRETS = {
    "private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=\s]{100,}",
    "password in an address": rb"(?:https?|postgresql)://[A-Za-z0-9._-]+:[A-Za-z0-9._~-]{6,}@[a-z]",
    "access key of a cloud": rb"\bAKIA[0-9A-Z]{16}\b",
    "token of a code host": rb"\bgh[pousr]_[A-Za-z0-9]{36}\b",
}
DOCUMENTED = {"user:password", "username:password", "scott:tiger"}
UNWANTED = re.compile(
    r"(^|/)(pip\.conf|\.netrc|\.npmrc|\.pypirc|\.env|uv\.toml|\.cache|id_rsa)(/|$)"
)


@dataclass(frozen=True)
class Saved:
    """An image as `docker save` writes it: the layers above the base, and the configuration."""

    layers: tuple[bytes, ...]
    configuration: str

    def files(self) -> Iterator[tuple[str, bytes]]:
        for layer in self.layers:
            with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
                for member in archive:
                    held = archive.extractfile(member) if member.isfile() else None
                    yield member.name.removeprefix("./"), held.read() if held else b""


def saved(image: str) -> Saved:
    done = subprocess.run(["docker", "save", image], capture_output=True, check=True)
    below = len(json.loads(docker("inspect", BASE).stdout)[0]["RootFS"]["Layers"])
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        manifest = json.load(archive.extractfile("manifest.json"))[0]
        layers = [archive.extractfile(name).read() for name in manifest["Layers"][below:]]
        configuration = archive.extractfile(manifest["Config"]).read().decode()
    return Saved(tuple(layers), configuration)


def hosts() -> set[str]:
    """Hosts of this machine's package registries and proxies."""
    texts = [
        COMMENT.sub("", path.read_text(errors="replace"))
        for pattern in SETTINGS
        for path in Path("/").glob(str(Path(pattern).expanduser()).lstrip("/"))
        if path.is_file()
    ]
    environment = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout
    texts += re.findall(r"(?im)^(?:pip|uv|npm|https?|all)_.*$", environment)
    named = {
        host.rsplit("@")[-1] for t in texts for host in re.findall(r"https?://([^/\s\"']+)", t)
    }
    return {host for host in named if "." in host} - PUBLIC


def findings(image: Saved, forbidden: set[str]) -> list[str]:
    """What should not be there: kind and file, never the value."""
    wanted = {f"host {n}": re.escape(h).encode() for n, h in enumerate(sorted(forbidden))}
    found = [f"{name}: its name" for name, _ in image.files() if UNWANTED.search(name)]
    for kind, pattern in (SECRETS | wanted).items():
        compiled = re.compile(pattern)
        for name, content in [*image.files(), ("history", image.configuration.encode())]:
            hits = {hit.decode() for hit in compiled.findall(content)}
            if any(not any(known in hit for known in DOCUMENTED) for hit in hits):
                found.append(f"{name}: {kind}")
    return found


@pytest.fixture(scope="module")
def service(image) -> Saved:
    return saved(image)


def test_our_layers_add_files_to_two_places_only(service):
    names = [name for name, _ in service.files() if name]

    assert len(names) > 1000
    assert {name for name in names if not (name + "/").startswith((*OURS, "opt/"))} == set()


def test_no_layer_and_no_history_holds_a_secret_or_a_registry_host(service):
    assert findings(service, hosts()) == []


def test_the_history_names_no_public_registry_and_no_credential(service):
    told = service.configuration

    assert not [host for host in PUBLIC | hosts() if host in told]
    assert not re.findall(r"(?i)password|secret|token|api[_-]?key|index.url", told)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("app/settings.txt", b"index = https://mirror.example.internal/simple", "host 0"),
        ("app/key.pem", b"-----BEGIN PRIVATE KEY-----\n" + b"MIGHAgEAMBMGByqGSM49" * 8, "key"),
        ("app/store", b"postgresql://mlflow:correct-horse@database/mlflow", "password"),
        ("app/.netrc", b"", "its name"),
        ("opt/heartdx/.cache/pip/wheel", b"", "its name"),
    ],
)
def test_the_search_sees_what_it_looks_for_in_a_real_layer(image, tmp_path, name, content, kind):
    planted = tmp_path / "planted"
    planted.parent.mkdir(exist_ok=True)
    planted.write_bytes(content)
    (tmp_path / "Dockerfile").write_text(f"FROM {image}\nCOPY planted /{name}\n")
    docker("build", "--tag", "heart-api:planted", str(tmp_path))

    top = Saved(saved("heart-api:planted").layers[-1:], "")
    docker("rmi", "--force", "heart-api:planted")

    assert [line for line in findings(top, {"mirror.example.internal"}) if kind in line]
