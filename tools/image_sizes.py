"""Measure the images beside a plain one and write the table into docs/image.md.

    make image-sizes

The plain image is what a runbook's three lines give: ``python:3.12-slim``, the tree, ``pip install
-r requirements.txt``. Compressed is gzip's level 6 of each layer, as a registry keeps it. The base
is whatever the engine calls by that name; a stand-in of it is named as one.
"""

from __future__ import annotations

import gzip
import http.client
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "image.md"
BEGIN, END = "<!-- made by make image-sizes -->", "<!-- end of what make image-sizes makes -->"
PLAIN = """\
FROM python:3.12-slim
WORKDIR /app
COPY . .
RUN pip install --no-cache-dir -r requirements.txt
CMD ["uvicorn", "src.api:app", "--host", "0.0.0.0", "--port", "8000"]
"""
PLAIN_TREE = ("LICENSE", "README.md", "pyproject.toml", "requirements.txt", "src", "models")
MEGABYTE = 1e6
EMPTY = 10_240
"""Bytes of a tar file without content."""


@dataclass(frozen=True)
class Layer:
    """A layer's size in bytes, as files and as a registry keeps them."""

    files: int
    compressed: int


@dataclass(frozen=True)
class Image:
    """The base, and the layers above it, lowest first."""

    name: str
    base: Layer
    layers: tuple[Layer, ...]

    @property
    def own(self) -> Layer:
        """All layers above the base."""
        return summed(self.layers)

    @property
    def total(self) -> Layer:
        """Base and own together."""
        return Layer(self.base.files + self.own.files, self.base.compressed + self.own.compressed)


def main() -> int:
    build_plain()
    docker("build", "--quiet", "--tag", "heart-api", str(ROOT))
    docker("build", "--quiet", "--target", "trainer", "--tag", "heart-trainer", str(ROOT))
    base = layers("python:3.12-slim")
    images = [measured(name, base) for name in ("heart-api", "heart-trainer", "heart-api:plain")]
    table = [*rows(images), "", *notes(images)]
    begin, end = PAGE.read_text().split(BEGIN)[0], PAGE.read_text().split(END)[1]
    PAGE.write_text(begin + "\n".join([BEGIN, "", *table, "", END]) + end)
    print("\n".join(table))
    return 0


def build_plain() -> None:
    with tempfile.TemporaryDirectory() as place:
        for name in PLAIN_TREE:
            source, target = ROOT / name, Path(place) / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        (Path(place) / "Dockerfile").write_text(PLAIN)
        docker("build", "--quiet", "--tag", "heart-api:plain", place)


def measured(name: str, base: list[Layer]) -> Image:
    return Image(name, summed(base), tuple(layers(name)[len(base) :]))


def layers(image: str) -> list[Layer]:
    """Each layer of a saved image, lowest first."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "image.tar"
        docker("save", "--output", str(path), image)
        with tarfile.open(path) as archive:
            manifest = archive.extractfile("manifest.json")
            assert manifest is not None
            names = json.load(manifest)[0]["Layers"]
            return [Layer(*sizes(archive, name)) for name in names]


def sizes(archive: tarfile.TarFile, name: str) -> Iterator[int]:
    layer = archive.extractfile(name)
    assert layer is not None
    content = layer.read()
    yield len(content)
    yield len(gzip.compress(content, compresslevel=6))


def summed(parts: Sequence[Layer]) -> Layer:
    return Layer(sum(p.files for p in parts), sum(p.compressed for p in parts))


def rows(images: list[Image]) -> list[str]:
    def cell(layer: Layer) -> str:
        return f"{layer.files / MEGABYTE:.0f} / {layer.compressed / MEGABYTE:.0f}"

    lines = [
        "| image | base, MB | ours, MB | together, MB | of the plain one |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    plain = images[-1].total
    for image in images:
        part = (
            f"{image.total.files / plain.files:.0%} / "
            f"{image.total.compressed / plain.compressed:.0%}"
        )
        lines.append(
            f"| `{image.name}` | {cell(image.base)} | {cell(image.own)} | {cell(image.total)} "
            f"| {part} |"
        )
    return lines


def notes(images: list[Image]) -> list[str]:
    label = json.loads(docker("inspect", "python:3.12-slim"))[0]["Config"]["Labels"] or {}
    base = (
        "a stand-in of the official base, made of Debian's packages (ops/ci/base-image.sh)"
        if label.get("heartdx.stand-in")
        else "the official base"
    )
    waits = sorted(seconds_to_ready(images[0].name) for _ in range(5))
    kept = [layer for layer in images[0].layers if layer.files > EMPTY]
    split = " and ".join(f"{layer.files / MEGABYTE:.1f}" for layer in kept)
    return [
        f"As files / as a registry keeps them (gzip). Measured on {base}. `heart-api` was ready "
        f"{waits[0]:.1f} s after its start under the manifest's limits (the best of {len(waits)}; "
        f"the median was {waits[2]:.1f} s). Its own layers are packages and "
        f"code with model: {split} MB.",
    ]


def seconds_to_ready(image: str) -> float:
    """From the container's start to the first 200 of /readyz, with the manifest's limits."""
    documents = yaml.safe_load_all((ROOT / "k8s" / "deployment.yaml").read_text())
    pod = next(d for d in documents if d["kind"] == "Deployment")["spec"]["template"]["spec"]
    limits = pod["containers"][0]["resources"]["limits"]
    name = docker(
        "run", "--detach", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL",  # noqa: S108
        "--cpus", str(limits["cpu"]), "--memory", re.sub("i$", "", limits["memory"]).lower(),
        "--publish", "127.0.0.1::8000", image,
    ).strip()  # fmt: skip
    address = docker("port", name, "8000/tcp").split()[0]
    while not is_ready(address):
        time.sleep(0.005)
    ready = time.time()
    begun = json.loads(docker("inspect", name))[0]["State"]["StartedAt"]
    docker("rm", "--force", name)
    return ready - datetime.fromisoformat(begun).timestamp()


def is_ready(address: str) -> bool:
    line = http.client.HTTPConnection(address, timeout=2)
    try:
        line.request("GET", "/readyz")
        return line.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        line.close()


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"image_sizes: docker {arguments[0]}: {done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
