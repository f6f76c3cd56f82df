"""The service loads nothing of training."""

import subprocess
import sys

from service_kit import ROOT

FORBIDDEN = ("mlflow", "pandas", "sklearn", "scipy", "joblib", "matplotlib", "pandera", "skl2onnx")


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_entry_imports_no_training_library():
    loaded = run("import sys, src.api; print(*{name.split('.')[0] for name in sys.modules})")

    assert not set(FORBIDDEN) & set(loaded.split())
    assert {"fastapi", "numpy", "prometheus_client"} <= set(loaded.split())


def test_the_package_itself_imports_no_prometheus_client():
    loaded = run("import sys, heartdx.serve; print(*{name.split('.')[0] for name in sys.modules})")

    assert not {"prometheus_client", "fastapi"} & set(loaded.split())


def test_the_entry_is_short():
    source = (ROOT / "src" / "api.py").read_text().split('"""')[-1]

    assert len([line for line in source.splitlines() if line.strip()]) <= 10
