"""The model bundle: read it, verify it, refuse what does not match, score with it.

A bundle is a folder ``models/bundles/<digest>/`` holding one sub-model per panel. Its digest is
the SHA-256 of the canonical model content (equations, forests, contract, threshold), so it can
be computed again from the files, without scikit-learn and without unpickling anything.

::

    <digest>/manifest.json        what this is, where from, checksums, golden records
    <digest>/card.md              the same for people
    <digest>/<panel>/score.json   a logistic regression, whole: what the service evaluates
    <digest>/<panel>/model.onnx   the same model for other runtimes; serves a forest
    <digest>/<panel>/reliability.json  how sure an answer is and why: range, population, reasons
    <digest>/<panel>/pipeline.joblib   the scikit-learn pipeline, for people; never loaded here
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from heartdx.contract import NAMES, PANEL_BY_NAME, PANEL_NAMES, PANELS, fingerprint
from heartdx.errors import BundleError, NoModelError, UsageError
from heartdx.reliability import Policy, Reliability, reliability_of

SCHEMA_VERSION = 1
READABLE_SCHEMAS = (1,)
MODEL_NAME = "heartdx"
MANIFEST = "manifest.json"
EQUATION = "score.json"
ONNX = "model.onnx"
RELIABILITY = "reliability.json"
CURRENT = "current"
BUNDLES = "bundles"
GOLDEN_TOLERANCE = 1e-6
HOW_TO_TRAIN = (
    "python -m src.model_train --data data/raw/heart.csv --models-dir models --reports-dir reports"
)

REFUSALS = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented")
"""How ONNX Runtime says that it cannot load a model."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Scorer(Protocol):
    """A sub-model of one panel."""

    def probability(self, X: np.ndarray) -> np.ndarray:
        """Probabilities of disease, shape (n,), for inputs of shape (n, panel inputs)."""


@dataclass(frozen=True)
class Scored:
    """Answers for a table.

    Parameters
    ----------
    probability : shape (n,), the probability of disease.
    panel : shape (n,), place of the answering panel in ``contract.PANELS``.
    """

    probability: np.ndarray
    panel: np.ndarray

    def predictions(self, threshold: float) -> np.ndarray:
        """1 from the threshold on, else 0; shape (n,)."""
        answers: np.ndarray = (self.probability >= threshold).astype(np.int64)
        return answers

    def panel_name(self, row: int) -> str:
        """Name of the panel that answered a row."""
        return PANEL_NAMES[int(self.panel[row])]


@dataclass(frozen=True)
class Bundle:
    """A verified bundle, ready to score.

    Parameters
    ----------
    folder : where it was read.
    manifest : the manifest as written.
    scorers : panel name to sub-model.
    reliability : panel name to what its answers can be judged by, where training kept it.
    """

    folder: Path
    manifest: Mapping[str, Any]
    scorers: Mapping[str, Scorer]
    reliability: Mapping[str, Reliability] = field(default_factory=dict)

    @property
    def policy(self) -> Policy:
        """When the model gives no prediction."""
        return Policy.of(self.manifest.get("policy"))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical model content."""
        return str(self.manifest["digest"])

    @property
    def name(self) -> str:
        """Name of the model."""
        return str(self.manifest["name"])

    @property
    def version(self) -> str:
        """Version of the model: the first 12 digits of its digest."""
        return self.digest[:12]

    @property
    def threshold(self) -> float:
        """Probability from which the answer is *disease*."""
        return float(self.manifest["threshold"])

    def score(self, X: np.ndarray) -> Scored:
        """Probability of disease for each patient, from the richest panel the patient meets.

        Parameters
        ----------
        X : array of shape (n_patients, 13) from ``records.table``.

        Raises
        ------
        BundleError
            A patient meets no panel of this bundle, or a sub-model gives no probability.
        """
        answering = richest_panel(X, available=tuple(self.scorers))
        probability = np.empty(len(X))
        for place, panel in enumerate(PANELS):
            rows = np.flatnonzero(answering == place)
            if rows.size:
                inputs = X[np.ix_(rows, panel.columns)]
                probability[rows] = self.scorers[panel.name].probability(inputs)
        if not np.all((probability >= 0) & (probability <= 1)):
            raise BundleError(f"{self.version}: a sub-model gave something that is no probability")
        return Scored(probability, answering)

    def used(self, panel: str) -> tuple[str, ...]:
        """Attributes that a panel's sub-model looks at."""
        facts = self.manifest["panels"][panel]
        return tuple(facts.get("used", facts["inputs"]))

    def unused_inputs(self, row: np.ndarray, panel: str) -> list[str]:
        """Known attributes of a patient that the answering sub-model does not look at."""
        used = self.used(panel)
        known = zip(NAMES, row, strict=True)
        return [name for name, value in known if name not in used and not math.isnan(value)]


def richest_panel(X: np.ndarray, *, available: tuple[str, ...] = PANEL_NAMES) -> np.ndarray:
    """Place of the last panel whose required attributes are all known, for each row.

    Raises
    ------
    BundleError
        A row meets none of the panels.

    Examples
    --------
    >>> row = np.full((1, 13), np.nan); row[0, :3] = [63, 1, 4]
    >>> PANEL_NAMES[richest_panel(row)[0]]
    'bedside'
    """
    answering = np.full(len(X), -1)
    for place, panel in enumerate(PANELS):
        if panel.name in available:
            required = [NAMES.index(name) for name in panel.required]
            answering[~np.isnan(X[:, required]).any(axis=1)] = place
    if (answering < 0).any():
        raise BundleError(
            f"{int((answering < 0).sum())} of {len(X)} patients lack an attribute that every "
            f"panel of this model needs ({', '.join(PANELS[0].required)})"
        )
    return answering


# -- sub-models ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Equation:
    """A logistic regression from its printed equation.

    Parameters
    ----------
    document : content of ``score.json``.
    """

    document: Mapping[str, Any]

    def probability(self, X: np.ndarray) -> np.ndarray:
        """Probabilities, shape (n,); the sum runs term by term, so a batch equals its rows."""
        places = {name: place for place, name in enumerate(self.document["inputs"])}
        columns = {name: X[:, place] for name, place in places.items()}
        for name, value in self.document["impute"].items():
            columns[name] = np.where(np.isnan(columns[name]), value, columns[name])
        logit = np.full(len(X), float(self.document["intercept"]))
        for term in self.document["terms"]:
            values = columns[term["attribute"]]
            if "code" in term:
                logit += term["coefficient"] * (values == term["code"])
            else:
                logit += term["coefficient"] * ((values - term["center"]) / term["scale"])
        calibration = self.document["calibration"]
        logit = calibration["slope"] * logit + calibration["intercept"]
        probability: np.ndarray = 1.0 / (1.0 + np.exp(-logit))
        return probability


class OnnxModel:
    """A sub-model evaluated by ONNX Runtime, one thread, inputs named as in the contract."""

    def __init__(self, content: bytes, inputs: tuple[str, ...]):
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except tuple(getattr(state, name) for name in REFUSALS) as cause:
            raise BundleError(
                f"{ONNX}: ONNX Runtime {onnxruntime.__version__} cannot load it; train again or "
                "install the locked version"
            ) from cause
        named = tuple(node.name for node in self._session.get_inputs())
        if named != inputs:
            raise BundleError(
                f"{ONNX}: inputs are {', '.join(named)}; expected {', '.join(inputs)}"
            )
        self._inputs = inputs

    def probability(self, X: np.ndarray) -> np.ndarray:
        """Probabilities, shape (n,)."""
        feed = {
            name: np.ascontiguousarray(X[:, [place]], dtype=np.float64)
            for place, name in enumerate(self._inputs)
        }
        answer: np.ndarray = self._session.run(["probabilities"], feed)[0]
        return np.asarray(answer[:, 1], dtype=np.float64)

    def one_patient(self) -> Callable[..., float]:
        """A function of the inputs in order (None where missing) to the probability.

        It writes into cells of its own, so one thread may use it at a time.
        """
        cells = {name: np.empty((1, 1)) for name in self._inputs}
        listed = list(cells.values())
        run, wanted = self._session.run, ["probabilities"]

        def probability(*values: float | None) -> float:
            for cell, value in zip(listed, values, strict=True):
                cell[0, 0] = math.nan if value is None else value
            return float(run(wanted, cells)[0][0, 1])

        return probability


# -- reading and verifying -------------------------------------------------------------------


def current_folder(models_dir: Path) -> Path:
    """The folder that ``<models_dir>/current`` names.

    Raises
    ------
    NoModelError
        Nothing was trained yet.
    BundleError
        ``current`` holds something else than a digest.
    """
    pointer = Path(models_dir) / CURRENT
    try:
        text = pointer.read_text(encoding="ascii").strip()
    except FileNotFoundError as cause:
        raise NoModelError(
            f"{pointer}: there is no model yet; make one with: {HOW_TO_TRAIN}"
        ) from cause
    except (OSError, UnicodeDecodeError) as cause:
        raise BundleError(f"{pointer}: cannot be read; it should hold one bundle digest") from cause
    if not _DIGEST.fullmatch(text):
        raise BundleError(f"{pointer}: expected 64 hexadecimal digits; train again: {HOW_TO_TRAIN}")
    return Path(models_dir) / BUNDLES / text


def locate(*, models_dir: Path, model_path: Path | None = None) -> Path:
    """The bundle folder to serve: ``model_path`` when given, else the current one.

    Raises
    ------
    UsageError
        ``model_path`` is a file; a pickle is never loaded.
    NoModelError
        There is no such folder.
    """
    if model_path is None:
        return current_folder(models_dir)
    if model_path.is_file() or model_path.suffix in {".joblib", ".pkl", ".pickle", ".onnx"}:
        raise UsageError(
            f"MODEL_PATH={model_path}: expected a bundle folder (models/bundles/<digest>); a "
            "pipeline file runs code when loaded and carries no contract, so it is never served"
        )
    if not model_path.is_dir():
        raise NoModelError(f"MODEL_PATH={model_path}: no such folder; make a model: {HOW_TO_TRAIN}")
    return model_path


def load(folder: Path) -> Bundle:
    """A bundle whose every byte and every golden answer was checked.

    Raises
    ------
    NoModelError
        The folder is not there.
    BundleError
        Damaged, of another contract or schema, or its golden records score differently.
    """
    folder = Path(folder)
    manifest = _manifest(folder)
    try:
        return _verified(folder, manifest)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as cause:
        raise BundleError(
            f"{folder / MANIFEST}: is no manifest of this release ({type(cause).__name__} while "
            "reading it); train again"
        ) from cause


def _verified(folder: Path, manifest: Mapping[str, Any]) -> Bundle:
    _refuse_foreign(folder, manifest)
    content = _verified_files(folder, manifest)
    digest = content_digest(
        panels={
            name: panel_content(
                facts, content[_scoring_file(name, facts)], content.get(f"{name}/{RELIABILITY}")
            )
            for name, facts in manifest["panels"].items()
        },
        threshold=manifest["threshold"],
        harm_ratio=manifest["harm_ratio"],
        policy=manifest.get("policy"),
        schema=manifest["schema_version"],
    )
    if digest != manifest["digest"]:
        raise BundleError(f"{folder}: the content has another digest than the manifest says")
    if _DIGEST.fullmatch(folder.name) and folder.name != digest:
        raise BundleError(f"{folder}: holds the bundle {digest[:12]}…, not the one it is named for")
    scorers = {name: _scorer(name, facts, content) for name, facts in manifest["panels"].items()}
    bundle = Bundle(folder, manifest, scorers, _reliability(manifest, content))
    _check_golden(bundle)
    return bundle


def content_digest(
    *,
    panels: Mapping[str, Mapping[str, Any]],
    threshold: float,
    harm_ratio: float,
    policy: Mapping[str, Any] | None = None,
    schema: int = SCHEMA_VERSION,
) -> str:
    """SHA-256 of what the bundle computes, independent of times, paths and joblib bytes."""
    content = {
        "schema": schema,
        "contract": fingerprint(),
        "panels": panels,
        "threshold": threshold,
        "harm_ratio": harm_ratio,
        **({} if policy is None else {"policy": policy}),
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def panel_content(
    facts: Mapping[str, Any], scoring: bytes, reliability: bytes | None = None
) -> dict[str, Any]:
    """The part of a panel that decides its answers, for the digest."""
    model = (
        json.loads(scoring) if facts["model"] == "logreg" else hashlib.sha256(scoring).hexdigest()
    )
    return {
        "model": facts["model"],
        "inputs": list(facts["inputs"]),
        "required": list(facts["required"]),
        **({"used": list(facts["used"])} if "used" in facts else {}),
        "content": model,
        **({} if reliability is None else {"reliability": json.loads(reliability)}),
    }


def _manifest(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise NoModelError(f"{folder}: no such bundle; make one with: {HOW_TO_TRAIN}")
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        wanted = {"schema_version", "name", "digest", "contract", "threshold", "harm_ratio"}
        wanted |= {"panels", "golden", "files"}
        if wanted - manifest.keys():
            raise BundleError(f"{folder / MANIFEST}: lacks {', '.join(wanted - manifest.keys())}")
    except (OSError, ValueError, AttributeError, RecursionError) as cause:
        raise BundleError(
            f"{folder / MANIFEST}: cannot be read as a manifest; train again"
        ) from cause
    return dict(manifest)


def _refuse_foreign(folder: Path, manifest: Mapping[str, Any]) -> None:
    if manifest["schema_version"] not in READABLE_SCHEMAS:
        raise BundleError(
            f"{folder}: bundle schema {manifest['schema_version']}, this release reads "
            f"{', '.join(map(str, READABLE_SCHEMAS))}; train again or install the matching release"
        )
    if manifest["contract"]["fingerprint"] != fingerprint():
        raise BundleError(
            f"{folder}: made for another contract "
            f"({manifest['contract']['fingerprint'][:12]}…, this release has {fingerprint()[:12]}…)"
            "; train again with this release"
        )
    Policy.of(manifest.get("policy"))  # refuses a reason that this release does not know
    for name, facts in manifest["panels"].items():
        panel = PANEL_BY_NAME.get(name)
        rule = (tuple(facts["inputs"]), tuple(facts["required"]))
        if panel is None or rule != (panel.inputs, panel.required):
            raise BundleError(f"{folder}: panel {name!r} does not fit the contract; train again")


def _verified_files(folder: Path, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """Bytes of the files that decide an answer; every file the manifest lists is checked."""
    kept = {_scoring_file(name, facts) for name, facts in manifest["panels"].items()}
    missing = kept - manifest["files"].keys()
    if missing:
        raise BundleError(f"{folder}: the manifest lists no checksum for {', '.join(missing)}")
    kept |= {f"{name}/{RELIABILITY}" for name in manifest["panels"]}  # optional, so not missed
    content = {}
    for name, digest in manifest["files"].items():
        path = folder / name
        if path.suffix == ".joblib" and not path.exists():
            continue  # for people; an image may leave it out
        if not path.resolve().is_relative_to(folder.resolve()):
            raise BundleError(f"{folder}: the manifest names a file outside the bundle")
        try:
            found = path.read_bytes()
        except OSError as cause:
            raise BundleError(
                f"{path}: missing from the bundle; train again or restore it"
            ) from cause
        if hashlib.sha256(found).hexdigest() != digest:
            raise BundleError(f"{path}: was changed after training (checksum differs); restore it")
        if name in kept:
            content[name] = found
    return content


def _scoring_file(panel: str, facts: Mapping[str, Any]) -> str:
    return f"{panel}/{EQUATION if facts['model'] == 'logreg' else ONNX}"


def _scorer(panel: str, facts: Mapping[str, Any], content: Mapping[str, bytes]) -> Scorer:
    scoring = content[_scoring_file(panel, facts)]
    if facts["model"] == "logreg":
        return Equation(json.loads(scoring))
    return OnnxModel(scoring, tuple(facts["inputs"]))


def _reliability(
    manifest: Mapping[str, Any], content: Mapping[str, bytes]
) -> dict[str, Reliability]:
    found = {}
    for name, facts in manifest["panels"].items():
        kept = content.get(f"{name}/{RELIABILITY}")
        if kept is not None:
            is_equation = facts["model"] == "logreg"
            equation = json.loads(content[f"{name}/{EQUATION}"]) if is_equation else None
            found[name] = reliability_of(json.loads(kept), equation=equation)
    return found


def _check_golden(bundle: Bundle) -> None:
    golden = bundle.manifest["golden"]
    X = np.array(golden["records"], dtype=np.float64)
    expected = np.array(golden["probabilities"], dtype=np.float64)
    worst = float(np.max(np.abs(bundle.score(X).probability - expected))) if len(X) else math.inf
    if not worst <= GOLDEN_TOLERANCE:
        raise BundleError(
            f"{bundle.folder}: golden records differ by {worst:.2g}, allowed is "
            f"{GOLDEN_TOLERANCE:g}; this machine does not compute what was trained"
        )
