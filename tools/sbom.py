"""Write bills of materials (CycloneDX 1.6 JSON) into reports/sbom.

``python tools/sbom.py`` writes two with cyclonedx-py: serving.cdx.json, what `pip install` puts
into the image, and environment.cdx.json, this .venv. ``python tools/sbom.py --image NAME`` writes
image.cdx.json with trivy: Debian's packages and Python's, as they lie in the built image. Each is
held against the locks, and the command exits 1 when one package differs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pins import ROOT, normal, pins, serving

FOLDER = ROOT / "reports" / "sbom"
PROJECT = "heartdx"
BASE_PYTHON = "usr/local/"
"""Where the base image keeps its own Python with pip, which is no part of the service."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the documents; exit 1 when one does not say what the locks say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--image", help="an image of the reachable Docker engine")
    image = parser.parse_args(argv).image
    FOLDER.mkdir(parents=True, exist_ok=True)
    if image:
        return judge("image", of_image(image), serving())
    environment = pins("requirements-dev.lock", "requirements-testdata.txt")
    return max(
        judge("serving", of_serving(), serving()),
        judge("environment", of_environment(ROOT / ".venv/bin/python", "environment"), environment),
    )


def of_serving() -> dict[str, Any]:
    """The bill of a new environment made as the image's is: serving packages and the project."""
    build_only = sorted(pins("requirements-serve.lock").keys() - serving().keys())
    with tempfile.TemporaryDirectory() as scratch:
        python = Path(scratch) / "bin" / "python"
        uv = output([sys.executable, "-I", "tools/bootstrap.py", "--uv"]).strip()
        output([uv, "venv", "--quiet", "--no-project", "--clear", "--python", sys.executable,
                scratch])  # fmt: skip
        install = [uv, "pip", "install", "--quiet", "--no-deps", "--python", str(python)]
        output([*install, "--require-hashes", "-r", "requirements-serve.lock"])
        output([*install, "--no-build-isolation", "."])
        output([uv, "pip", "uninstall", "--quiet", "--python", str(python), *build_only])
        return of_environment(python, "serving")


def output(command: Sequence[str]) -> str:
    """What a command of the set-up prints."""
    return subprocess.run(
        command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout  # fmt: skip


def of_environment(python: Path, name: str) -> dict[str, Any]:
    """cyclonedx-py's bill of an environment, the same for the same packages."""
    target = FOLDER / f"{name}.cdx.json"
    subprocess.run(
        ["cyclonedx-py", "environment", "--output-reproducible", "--spec-version", "1.6",
         "--pyproject", "pyproject.toml", "--mc-type", "application", "--output-format", "JSON",
         "--output-file", str(target), str(python)],
        cwd=ROOT, check=True,
    )  # fmt: skip
    document: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    return document


def of_image(image: str) -> dict[str, Any]:
    """Trivy's bill of an image in the reachable engine; no database is asked for."""
    target = FOLDER / "image.cdx.json"
    subprocess.run(
        ["trivy", "image", "--quiet", "--offline-scan", "--skip-db-update",
         "--skip-java-db-update", "--format", "cyclonedx",
         "--output", str(target), image],
        cwd=ROOT, check=True,
    )  # fmt: skip
    document: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    return document


def python_packages(document: Mapping[str, Any]) -> dict[str, str]:
    """Name to version of the Python packages of a bill, less the project and the base's own."""
    return {
        normal(component["name"]): component["version"]
        for component in document.get("components", [])
        if component.get("purl", "").startswith("pkg:pypi/")
        and not any(
            entry["name"].endswith(":FilePath") and entry["value"].startswith(BASE_PYTHON)
            for entry in component.get("properties", [])
        )
        and normal(component["name"]) != PROJECT
    }


def differences(found: Mapping[str, str], locked: Mapping[str, str]) -> list[str]:
    """One sentence for each package that is missing, too many, or of another version.

    Examples
    --------
    >>> differences({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "1"})
    ['b: 2, locked is 3', 'c: missing, locked is 1']
    """
    return [
        f"{name}: {found.get(name, 'missing')}, locked is {locked.get(name, 'none')}"
        for name in sorted({*found} | {*locked})
        if found.get(name) != locked.get(name)
    ]


def judge(name: str, document: Mapping[str, Any], locked: Mapping[str, str]) -> int:
    """Print what a bill holds and how it differs from the locks; 1 when it does."""
    found = python_packages(document)
    told = differences(found, locked)
    for line in told:
        print(f"sbom: {name}: {line}", file=sys.stderr)
    others = len(document.get("components", [])) - len(found)
    print(f"sbom: reports/sbom/{name}.cdx.json: {len(found)} Python packages, {others} other "
          f"components; {len(told)} differ from the lock")  # fmt: skip
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
