"""With, without and with a damaged model: what the service says, and what it never does."""

import json
import shutil

import pytest
import tiny_bundle
from service_kit import PATIENT, started

from heartdx.bundle import EQUATION, HOW_TO_TRAIN, MANIFEST
from heartdx.errors import UsageError
from heartdx.serve import create_app
from heartdx.serve.problems import MEDIA_TYPE
from heartdx.settings import Settings

DOORS = [("GET", "/health"), ("GET", "/readyz"), ("POST", "/predict")]


def test_a_verified_model_is_healthy_and_ready(client, models_dir):
    health = client.get("/health")
    ready = client.get("/readyz")

    digest = (models_dir / "current").read_text().strip()
    assert health.status_code == ready.status_code == 200
    assert health.json() == {
        "status": "ok",
        "model_name": "heartdx",
        "model_version": digest[:12],
        "model_digest": digest,
        "panels": ["bedside", "exercise", "imaging"],
    }
    assert ready.json() == {"status": "ready", "model_version": digest[:12]}


@pytest.mark.parametrize(("method", "path"), DOORS)
def test_without_a_model_every_door_says_503_and_the_command(bare_client, method, path):
    body = json.dumps(PATIENT) if method == "POST" else None
    answer = bare_client.request(
        method, path, content=body, headers={"Content-Type": "application/json"}
    )

    assert answer.status_code == 503
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert HOW_TO_TRAIN in answer.json()["detail"]
    assert set(answer.json()) == {"type", "title", "status", "detail", "request_id"}


def test_without_a_model_the_process_is_alive(bare_client):
    assert bare_client.get("/livez").status_code == 200


def test_before_its_start_the_service_is_not_ready(models_dir):
    from starlette.testclient import TestClient

    service = TestClient(create_app(Settings(models_dir=models_dir)))

    assert service.get("/readyz").status_code == 503
    assert service.post("/predict", json=PATIENT).status_code == 503


def tamper_coefficients(folder):
    path = folder / "bedside" / EQUATION
    path.write_bytes(path.read_bytes().replace(b'"intercept": -0.3', b'"intercept": -3.0'))


def tamper_threshold(folder):
    rewrite(folder, threshold=0.9)


def tamper_golden(folder):
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["golden"]["probabilities"][0] += 0.001
    rewrite(folder, golden=manifest["golden"])


def tamper_contract(folder):
    rewrite(folder, contract={"fingerprint": "0" * 64})


def tamper_schema(folder):
    rewrite(folder, schema_version=99)


def truncate_manifest(folder):
    path = folder / MANIFEST
    path.write_bytes(path.read_bytes()[:200])


def empty_panels(folder):
    rewrite(folder, panels={})


def senseless_panels(folder):
    rewrite(folder, panels=[1, 2])


def senseless_golden(folder):
    rewrite(folder, golden="none")


def drop_equation(folder):
    (folder / "exercise" / EQUATION).unlink()


def rewrite(folder, **changes):
    manifest = json.loads((folder / MANIFEST).read_bytes())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **changes}))


@pytest.mark.parametrize(
    "tamper",
    [
        tamper_coefficients,
        tamper_threshold,
        tamper_golden,
        tamper_contract,
        tamper_schema,
        truncate_manifest,
        empty_panels,
        senseless_panels,
        senseless_golden,
        drop_equation,
        shutil.rmtree,
    ],
)
def test_a_damaged_bundle_never_serves(tmp_path, tamper):
    tamper(tiny_bundle.write(tmp_path))

    with started(Settings(models_dir=tmp_path)) as service:
        answers = [service.request(method, path) for method, path in DOORS]
        alive = service.get("/livez")

    assert [answer.status_code for answer in answers] == [503, 503, 503]
    assert answers[0].json()["detail"]
    assert alive.status_code == 200


def test_model_path_serves_the_folder_it_names(tmp_path):
    other = tiny_bundle.write(tmp_path / "other", slant=2)
    tiny_bundle.write(tmp_path / "models")

    settings = Settings(models_dir=tmp_path / "models", model_path=other)
    with started(settings) as service:
        assert service.get("/health").json()["model_digest"] == other.name


def test_model_path_naming_a_pickle_stops_the_start(tmp_path):
    with pytest.raises(UsageError, match="expected a bundle folder"):
        create_app(Settings(model_path=tmp_path / "pipeline.joblib"))


WRONG_SETTINGS = [
    ({"MODEL_PATH": "model.joblib"}, "heartdx: MODEL_PATH=model.joblib: expected a bundle folder"),
    ({"HEARTDX_MODEL_DIR": "x"}, "heartdx: HEARTDX_MODEL_DIR: unknown setting; did you mean"),
]


@pytest.mark.parametrize(("environment", "said"), WRONG_SETTINGS)
def test_a_wrong_setting_stops_the_start_with_one_line(serve, environment, said):
    served = serve(environment)

    printed, _ = served.process.communicate(timeout=30)

    assert printed.startswith(said)
    assert len(printed.splitlines()) == 1
    assert served.process.returncode == 2


def test_a_wrong_setting_stops_several_workers_too(serve, tmp_path):
    """uvicorn's parent gives up instead of starting them again; its own exit code is 0."""
    [(environment, said), _] = WRONG_SETTINGS
    served = serve({**environment, "TMPDIR": str(tmp_path)}, "--workers", "2")

    printed, _ = served.process.communicate(timeout=30)

    [line] = {line for line in printed.splitlines() if line.startswith("heartdx: ")}
    assert line.startswith(said)
    assert "Traceback" not in printed
