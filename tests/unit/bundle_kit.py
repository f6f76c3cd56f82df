"""Small bundles in a models folder: plain, with files for people, and ones that are damaged."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

from heartdx.bundle import MANIFEST

POISON = b"cos\nsystem\n(S'touch unpickled'\ntR."
"""A pickle that makes the file ``unpickled`` when it is opened."""


def _tiny_bundle() -> ModuleType:
    """``tests/service/tiny_bundle.py``, from another folder of tests."""
    if "tiny_bundle" not in sys.modules:
        path = Path(__file__).resolve().parents[1] / "service" / "tiny_bundle.py"
        spec = importlib.util.spec_from_file_location("tiny_bundle", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["tiny_bundle"] = module
        spec.loader.exec_module(module)
    return sys.modules["tiny_bundle"]


tiny_bundle = _tiny_bundle()


def write(models_dir: Path, *, slant: float = 1.0, created: str = "") -> Path:
    """A bundle with all that a trained one has: a card, pipelines, the time it was made."""
    folder = tiny_bundle.write(models_dir, slant=slant)
    manifest = manifest_of(folder)
    for panel in manifest["panels"]:
        pipeline = f"{panel}/pipeline.joblib"
        (folder / pipeline).write_bytes(POISON)
        manifest["files"][pipeline] = hashlib.sha256(POISON).hexdigest()
    manifest["created"] = created
    (folder / "card.md").write_text("A card.\n")
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def manifest_of(folder: Path) -> dict:
    return json.loads((folder / MANIFEST).read_text())


def flip(path: Path, place: int = 0) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))
