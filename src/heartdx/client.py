"""A typed client of the service: ``Client`` blocks, ``AsyncClient`` awaits; both have one meaning.

::

    with Client("http://127.0.0.1:8000") as service:
        service.predict({"age": 61, "sex": "male", "cp": "asymptomatic"}).probability

What is asked again by itself: nothing but what the service did not work on, which is a 503 or
429 and a connection that could not be made. A refusal is final; so is a connection that broke
after the request went out, because a caller may want to know that the service died under it.

::

    ServiceError                 no answer                                             exit
    ├── RefusedError             the request is wrong (``problems`` names each field)  3
    ├── ServiceUnavailableError  the service is not there, stopped or too busy         7
    └── UnexpectedAnswerError    it failed, or is not the service this client knows    6

No error holds a value that was sent, nor a text that some other server sent back.

Needs the extra ``client``; the service itself is not imported.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import io
import itertools
import json
import math
import random
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec

from heartdx.contract import BY_NAME
from heartdx.errors import FieldProblem, HeartdxError, RecordError, UnavailableError, UsageError

try:
    import httpx2
except ModuleNotFoundError as cause:
    raise ImportError(
        "heartdx.client needs httpx2; install it with: pip install 'heartdx[client]'"
    ) from cause

if TYPE_CHECKING:
    import polars as pl

Detail = Literal["none", "standard", "full"]
Coding = Literal["uci", "kaggle"]
Patient = Mapping[str, object]

MAX_ROWS = 1_000
"""Patients in one JSON request: the service's default limit."""
MAX_TABLE_ROWS = 50_000
"""Rows in one Arrow request: about 5 MB, which a service takes before its answers must be read."""

_JSON = "application/json"
_ARROW = "application/vnd.apache.arrow.stream"
_PROBLEM = "application/problem+json"
_PROBLEM_TYPE = "urn:heartdx:problem:"
_ASKED_AGAIN = frozenset({429, 503})
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_FIT_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MAX_TOLD = 5
_UNPACKED = "the answer's compressed body is damaged; look for a proxy in between"


# -- what goes wrong -------------------------------------------------------------------------


class ServiceError(HeartdxError):
    """The service gave no answer.

    Attributes
    ----------
    status : HTTP status, None when nothing was received.
    request_id : of the refused request, for whoever runs the service; empty when unknown.
    answered : rows of a batch whose earlier parts were answered, in order; no patient is asked
        about twice when the batch goes on behind them.
    table : the same of ``predict_table``, None when no part was answered.
    """

    status: int | None = None
    request_id: str = ""
    answered: tuple[Row, ...] = ()
    table: pl.DataFrame | None = None


class RefusedError(ServiceError):
    """The request is wrong, and stays so; it is never sent again by itself.

    Attributes
    ----------
    kind : the service's word, such as ``invalid-input`` or ``unauthorized``.
    problems : each refused field and its mend; empty when it is not about fields.
    """

    exit_code = 3

    def __init__(self, kind: str, detail: str, problems: tuple[FieldProblem, ...] = ()):
        self.kind = kind
        self.problems = problems
        told = "; ".join(str(problem) for problem in problems[:_MAX_TOLD])
        more = f"; and {len(problems) - _MAX_TOLD} more" if len(problems) > _MAX_TOLD else ""
        super().__init__(f"the service refused ({kind}): {told or detail}{more}")


class ServiceUnavailableError(ServiceError, UnavailableError):
    """The service cannot be asked now; a later try may succeed.

    Attributes
    ----------
    kind : the service's word (``overloaded``, ``stopped``, ``no-model``, ``rate-limited``), or
        ``unreachable``, ``timeout``, ``interrupted``.
    reason : one sentence.
    tries : how often it was asked.
    """

    exit_code = UnavailableError.exit_code

    def __init__(self, kind: str, reason: str, *, tries: int):
        self.kind = kind
        self.reason = reason
        self.tries = tries
        times = "once" if tries == 1 else f"{tries} times"
        super().__init__(f"no answer ({kind}), asked {times}: {reason}")


class UnexpectedAnswerError(ServiceError):
    """The service failed, or the answer is not what its documentation says."""

    exit_code = 6


# -- what is answered ------------------------------------------------------------------------


@dataclass(frozen=True)
class Contribution:
    """One attribute's part of the log-odds."""

    attribute: str
    label: str
    log_odds: float


class Reasons(msgspec.Struct, frozen=True, tag_field="scale", tag="log-odds"):
    """What a probability is made of: base and contributions add up to its log-odds.

    Parameters
    ----------
    reference : who ``base`` is about.
    base : log-odds of that reference.
    contributions : the largest first.
    """

    reference: str
    base: float
    contributions: tuple[Contribution, ...]

    @property
    def scale(self) -> Literal["log-odds"]:
        """What tells these reasons from a forest's."""
        return "log-odds"


@dataclass(frozen=True)
class VoteContribution:
    """One attribute's part of a forest's votes."""

    attribute: str
    label: str
    votes: float


@dataclass(frozen=True)
class VoteCalibration:
    """The log-odds are ``slope * votes + intercept``, for every patient of the panel."""

    slope: float
    intercept: float


class VoteReasons(msgspec.Struct, frozen=True, tag_field="scale", tag="votes"):
    """What a forest's votes are made of: base and contributions add up to ``votes``.

    Parameters
    ----------
    reference : who ``base`` is about.
    base : votes for that reference.
    contributions : the largest first.
    votes : for this patient, from 0 to 1.
    calibration : what makes the probability of the votes.
    """

    reference: str
    base: float
    contributions: tuple[VoteContribution, ...]
    votes: float
    calibration: VoteCalibration

    @property
    def scale(self) -> Literal["votes"]:
        """What tells these reasons from a logistic regression's."""
        return "votes"


@dataclass(frozen=True)
class DataQuality:
    """How usual a patient's values are; it names attributes, never values.

    Parameters
    ----------
    missing : not known.
    imputed : of these, what the panel put a typical value for.
    implausible : rules that the values break.
    out_of_range : outside the training patients' range.
    rare : codes that few training patients had.
    distance, distance_limit : from the training population, and where ``far`` begins.
    far : whether the patient is unlike those the model knows.
    """

    missing: tuple[str, ...]
    imputed: tuple[str, ...]
    implausible: tuple[dict[str, Any], ...]
    out_of_range: tuple[str, ...]
    rare: tuple[str, ...]
    distance: float
    distance_limit: float
    far: bool


@dataclass(frozen=True)
class ModelIdentity:
    """What answered.

    Parameters
    ----------
    name, version : the version is the digest's first 12 digits.
    digest : SHA-256 of the model's content.
    contract : fingerprint of the contract it was trained for.
    """

    name: str
    version: str
    digest: str
    contract: str


@dataclass(frozen=True)
class Prediction:
    """The answer to one patient.

    Parameters
    ----------
    probability : of disease, in [0, 1].
    prediction, label : 1 and its word from the threshold on; None when the policy abstains.
    prediction_id : unique for each answered patient.
    request_id : of the request, as the service's log has it.
    confidence : probability of the named label.
    calibration_range : approximate range of the calibrated probability; not valid for an unseen
        hospital.
    band : the probability in words.
    threshold : probability from which the prediction is 1.
    panel : the panel that answered.
    unused_inputs : sent, but not used by the panel.
    abstain, abstain_reason : whether and why the model's policy gives no prediction.
    model_name, model_version : who answered.
    threshold_name, calibration_range_note, reasons, data_quality, model, intended_use : with
        ``detail="full"`` only.

    Notes
    -----
    With ``detail="none"`` only the first five are there; what an answer lacks is None.
    ``msgspec.to_builtins`` gives the whole as plain dicts.
    """

    probability: float
    prediction: int | None
    label: str | None
    prediction_id: str
    request_id: str
    confidence: float | None = None
    calibration_range: tuple[float, float] | None = None
    band: str | None = None
    threshold: float | None = None
    panel: str | None = None
    unused_inputs: tuple[str, ...] | None = None
    abstain: bool | None = None
    abstain_reason: str | None = None
    model_name: str | None = None
    model_version: str | None = None
    threshold_name: str | None = None
    calibration_range_note: str | None = None
    reasons: Reasons | VoteReasons | None = None
    data_quality: DataQuality | None = None
    model: ModelIdentity | None = None
    intended_use: str | None = None


@dataclass(frozen=True)
class Row:
    """The answer to one patient of several, or why there is none.

    Parameters
    ----------
    row : place among the patients that were given, from 0.
    probability, calibration_range, prediction, label, panel : as in ``Prediction``; None in a
        refused row.
    abstain : why the policy gives no prediction, None when it does.
    error : what is wrong with the row's fields; None when it was answered.
    model_name, model_version, threshold : who answered; a model that is changed while a long
        table is sent in parts shows here.
    """

    row: int
    probability: float | None
    calibration_range: tuple[float, float] | None
    prediction: int | None
    label: str | None
    panel: str | None
    abstain: str | None
    error: tuple[FieldProblem, ...] | None
    model_name: str = ""
    model_version: str = ""
    threshold: float = math.nan


@dataclass(frozen=True)
class Batch:
    """The answers to several patients, in their order.

    Parameters
    ----------
    rows : one for each patient.
    """

    rows: tuple[Row, ...]

    @property
    def answered(self) -> tuple[Row, ...]:
        """Rows with a probability."""
        return tuple(row for row in self.rows if row.error is None)

    @property
    def refused(self) -> tuple[Row, ...]:
        """Rows with an error."""
        return tuple(row for row in self.rows if row.error is not None)


@dataclass(frozen=True)
class Model:
    """The model that answers.

    Parameters
    ----------
    name, version, digest, contract : see ``ModelIdentity``.
    intended_use : who it is for.
    threshold, threshold_name : from where the prediction is 1, and the rule behind it.
    abstain_when : its declared policy.
    panels : panel name to its model, inputs and validation.
    card : the model card, Markdown; None when the bundle has none.
    """

    name: str
    version: str
    digest: str
    contract: str
    intended_use: str
    threshold: float
    threshold_name: str
    abstain_when: tuple[str, ...]
    panels: dict[str, dict[str, Any]]
    card: str | None


@dataclass(frozen=True)
class Schema:
    """The contract of the service that was asked, which may be of another release.

    Parameters
    ----------
    version, fingerprint : of the contract.
    outcome : its name and the words for 1 and 0.
    attributes : name, unit, range and codes of each.
    panels : inputs and required inputs of each.
    """

    version: str
    fingerprint: str
    outcome: dict[str, Any]
    attributes: tuple[dict[str, Any], ...]
    panels: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Health:
    """The verified model of a service.

    Parameters
    ----------
    status : ``ok``.
    model_name, model_version, model_digest : what answers.
    panels : the panels it has.
    """

    status: str
    model_name: str
    model_version: str
    model_digest: str
    panels: tuple[str, ...]


@dataclass(frozen=True)
class Readiness:
    """Whether predictions can be asked for.

    Parameters
    ----------
    is_ready : yes or no.
    reason : why not; empty when ready.
    model_version : of the model that would answer, None when not ready.
    """

    is_ready: bool
    reason: str = ""
    model_version: str | None = None


# -- asking again ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Retries:
    """How patiently a busy or absent service is asked again.

    Parameters
    ----------
    tries : most times that one request is sent; 1 never repeats it.
    first_wait : seconds that the wait after the first try is drawn from; it doubles.
    longest_wait : seconds, where the doubling ends.
    within : seconds after the first try, beyond which none begins.

    References
    ----------
    .. [1] Brooker M. Exponential backoff and jitter. AWS Architecture Blog, 2015 ("full jitter").
    .. [2] Fielding R, Nottingham M, Reschke J. HTTP Semantics. RFC 9110, 2022, section 10.2.3.
    """

    tries: int = 5
    first_wait: float = 0.1
    longest_wait: float = 2.0
    within: float = 15.0

    def wait(self, tried: int, *, share: float, asked_for: float = 0.0) -> float:
        """Seconds to wait after so many tries.

        Parameters
        ----------
        tried : 1 after the first try.
        share : a draw from [0, 1), so that many clients do not come back at once.
        asked_for : seconds of the service's Retry-After; the draw is added to it.

        Examples
        --------
        >>> Retries().wait(3, share=0.5)
        0.2
        >>> Retries().wait(1, share=0.5, asked_for=2.0)
        2.05
        """
        ceiling = self.longest_wait
        if tried <= 32:  # beyond, a power of two is past any wait, and in the end past a float
            ceiling = min(ceiling, self.first_wait * 2.0 ** (tried - 1))
        return asked_for + share * ceiling


ONCE = Retries(tries=1)


class _Patience:
    """How often one request was sent, and whether it may be again."""

    def __init__(self, retries: Retries):
        self._retries = retries
        self._began = time.monotonic()
        self.tries = 0

    def after_failure(self, failure: httpx2.TransportError) -> float:
        """Seconds to wait after a request that met no service, or an error."""
        self.tries += 1
        name = type(failure).__name__
        if isinstance(failure, _NOT_SENT):
            told = "unreachable", f"no connection could be made ({name}); is the service started?"
        elif isinstance(failure, httpx2.TimeoutException):
            told = "timeout", f"no answer came in time ({name}); set a longer timeout, or ask less"
        else:
            told = "interrupted", f"the connection broke ({name}); the request may be sent again"
        wait = self._wait(0.0) if isinstance(failure, _NOT_SENT) else None
        if wait is None:
            raise ServiceUnavailableError(*told, tries=self.tries) from failure
        return wait

    def after_answer(self, answer: httpx2.Response) -> float:
        """Seconds to wait after a service that was too busy, or an error."""
        self.tries += 1
        wait = self._wait(_retry_after(answer.headers.get("Retry-After", "")))
        if wait is None:
            problem = _problem(answer)
            reason = problem.detail or f"status {answer.status_code} without a reason"
            kind = problem.kind or "busy"
            raise _marked(ServiceUnavailableError(kind, reason, tries=self.tries), answer, problem)
        return wait

    def _wait(self, asked_for: float) -> float | None:
        if self.tries >= self._retries.tries:
            return None
        share = random.random()  # noqa: S311 - spreads load, keeps no secret
        wait = self._retries.wait(self.tries, share=share, asked_for=asked_for)
        begins = time.monotonic() - self._began + wait
        return wait if begins <= self._retries.within else None


def _retry_after(header: str) -> float:
    """Seconds that a Retry-After asks for; none when it says nothing readable."""
    if header.isascii() and header.isdigit():
        return float(header[:9])
    when = email.utils.parsedate_tz(header)
    return 0.0 if when is None else max(0.0, email.utils.mktime_tz(when) - time.time())


# -- requests and answers, the same for both clients -----------------------------------------


def _base(url: str, api_key: str | None, timeout: float, transport: Any) -> dict[str, Any]:
    """Arguments of both httpx2 clients."""
    if not url.startswith(("http://", "https://")):
        raise UsageError("the service's address should begin with http:// or https://")
    if api_key is not None and not re.fullmatch("[!-~]+", api_key):
        raise UsageError("the API key should be printable ASCII without spaces or line ends")
    headers = {"Accept": _JSON, **({} if api_key is None else {"X-API-Key": api_key})}
    given = {"base_url": url, "headers": headers, "timeout": timeout}
    return given if transport is None else {**given, "transport": transport}


def _posted(
    path: str,
    content: bytes,
    *,
    request_id: str | None,
    media: str = _JSON,
    query: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Arguments of a request with a body."""
    headers = {"Content-Type": media, "Accept": media}
    if request_id is not None:
        if not _FIT_ID.fullmatch(request_id):
            raise UsageError("a request id has 1 to 64 letters, digits, '.', '_' or '-'")
        headers["X-Request-ID"] = request_id
    return {
        "method": "POST",
        "url": path,
        "content": content,
        "headers": headers,
        "params": dict(query or {}),
    }


def _got(path: str) -> dict[str, Any]:
    return {"method": "GET", "url": path}


def _one(
    patient: Patient, detail: Detail, coding: Coding | None, request_id: str | None
) -> dict[str, Any]:
    """The request about one patient."""
    body = {**_plain_fields(patient), **({} if coding is None else {"coding": coding})}
    query = {} if detail == "standard" else {"detail": detail}
    return _posted("/v1/predict", _encoded(body), request_id=request_id, query=query)


def _parts(
    patients: Iterable[Patient], coding: Coding | None, max_rows: int, request_id: str | None
) -> Iterator[dict[str, Any]]:
    """The requests about several patients, one after the other."""
    known = {} if coding is None else {"coding": coding}
    first = 0
    for part in itertools.batched(patients, max_rows):
        records = [_plain_fields(patient, row) for row, patient in enumerate(part, first)]
        first += len(part)
        body = _encoded({"records": records, **known})
        yield _posted("/v1/predict/batch", body, request_id=request_id)


def _encoded(body: Mapping[str, object]) -> bytes:
    return json.dumps(body, allow_nan=False, separators=(",", ":")).encode()


def _plain_fields(patient: Patient, row: int | None = None) -> dict[str, object]:
    """A patient in what JSON has: NaN is missing, a NumPy number is a number."""
    return {str(name): _plain(value, str(name), row) for name, value in patient.items()}


def _plain(value: object, name: str, row: int | None) -> object:
    if isinstance(value, list | tuple):
        return [_plain(part, name, row) for part in value]
    found = value.item() if hasattr(value, "item") else value
    if isinstance(found, float) and not math.isfinite(found):
        if math.isnan(found):
            return None
        raise RecordError([FieldProblem(name, "range", _expected(name), "send a finite one", row)])
    if found is None or isinstance(found, str | int | float):
        return found
    mend = "send a number, a text or None"
    raise RecordError([FieldProblem(name, "type", _expected(name), mend, row)])


def _expected(name: str) -> str:
    return BY_NAME[name].expected if name in BY_NAME else "a number or a text"


@dataclass(frozen=True)
class _Problem:
    """What a problem body says; all empty when the answer is no problem of the service."""

    type: str = ""
    detail: str = ""
    request_id: str = ""
    errors: tuple[FieldProblem, ...] = ()

    @property
    def kind(self) -> str:
        return self.type.removeprefix(_PROBLEM_TYPE)


def _problem(answer: httpx2.Response) -> _Problem:
    """The problem of an answer; another server's words are not passed on."""
    if answer.headers.get("Content-Type", "").partition(";")[0] != _PROBLEM:
        return _Problem()
    try:
        problem = msgspec.json.decode(answer.content, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Problem()
    return problem if problem.type.startswith(_PROBLEM_TYPE) else _Problem()


def _marked(error: ServiceError, answer: httpx2.Response, problem: _Problem) -> ServiceError:
    error.status = answer.status_code
    error.request_id = problem.request_id or answer.headers.get("X-Request-ID", "")
    return error


def _accepted(answer: httpx2.Response, media: str = _JSON) -> bytes:
    """The body of a good answer.

    Raises
    ------
    RefusedError, UnexpectedAnswerError
        It is none.
    """
    status, problem = answer.status_code, _problem(answer)
    if 400 <= status < 500 and problem.kind:
        raise _marked(RefusedError(problem.kind, problem.detail, problem.errors), answer, problem)
    if status != 200:
        told = problem.detail or "and says nothing this client knows; is it the right address?"
        raise _marked(
            UnexpectedAnswerError(f"the service answered {status}: {told}"), answer, problem
        )
    if answer.headers.get("Content-Type", "").partition(";")[0] != media:
        raise _unexpected(answer, f"expected {media}; is it the right address?")
    return answer.content


def _read[T](answer: httpx2.Response, kind: type[T]) -> T:
    """The answer as one of our types; members that this release does not know are passed over."""
    content = _accepted(answer)
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as cause:  # names a member and two types, no value
        raise _unexpected(answer, f"{cause}; use the client of the service's release") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _unexpected(answer, "the body is no JSON") from None


def _unexpected(answer: httpx2.Response, detail: str) -> ServiceError:
    return _marked(UnexpectedAnswerError(f"not the service's answer: {detail}"), answer, _Problem())


@dataclass(frozen=True)
class _Summary:
    complete: bool
    model_name: str
    model_version: str
    threshold: float


@dataclass(frozen=True)
class _Rows:
    rows: tuple[Row, ...]
    summary: _Summary


def _rows(answer: httpx2.Response, first: int, asked: int) -> list[Row]:
    """The rows of one part, numbered among all."""
    found = _read(answer, _Rows)
    told = found.summary
    if not told.complete or len(found.rows) != asked:
        raise _unexpected(answer, f"{len(found.rows)} rows came for {asked}")
    return [
        replace(
            row,
            row=row.row + first,
            model_name=told.model_name,
            model_version=told.model_version,
            threshold=told.threshold,
        )
        for row in found.rows
    ]


@contextlib.contextmanager
def _kept(rows: list[Row], asked: int) -> Iterator[None]:
    """An error in here carries the rows that were answered before it."""
    try:
        yield
    except ServiceError as error:
        error.answered = tuple(rows)
        _tell_answered(error, len(rows), asked, "answered")
        raise


def _tell_answered(error: ServiceError, answered: int, asked: int, where: str) -> None:
    if answered:
        told = f"{answered} of {asked} patients were answered before, `{where}` holds them"
        error.args = (f"{error}; {told}",)


def _is_ready(answer: httpx2.Response) -> Readiness:
    if answer.status_code == 503:
        return Readiness(is_ready=False, reason=_problem(answer).detail or "status 503")
    return Readiness(is_ready=True, model_version=_read(answer, _Ready).model_version)


@dataclass(frozen=True)
class _Ready:
    model_version: str


# -- tables ----------------------------------------------------------------------------------


def _slices(
    frame: Any, coding: Coding | None, max_rows: int, request_id: str | None
) -> Iterator[dict[str, Any]]:
    """The Arrow requests about a table, one after the other."""
    query = {} if coding is None else {"coding": coding}
    for part in _polars(frame).iter_slices(max_rows):
        stream = io.BytesIO()
        part.write_ipc_stream(stream, compression="uncompressed")
        yield _posted(
            "/v1/predict/batch",
            stream.getvalue(),
            media=_ARROW,
            query=query,
            request_id=request_id,
        )


def _polars(frame: Any) -> pl.DataFrame:
    """A polars table; a pandas one is read column by column, which needs no pyarrow."""
    import polars as pl

    if isinstance(frame, pl.DataFrame):
        return frame
    columns = {str(name): frame[name] for name in frame.columns}
    return pl.DataFrame(
        {n: c.astype(object).where(c.notna(), None).tolist() for n, c in columns.items()},
        strict=False,
    )


def _table(answer: httpx2.Response, first: int) -> pl.DataFrame:
    """The rows of one part, numbered among all, with the model that answered."""
    import polars as pl

    content = _accepted(answer, _ARROW)
    try:
        found = pl.read_ipc_stream(io.BytesIO(content))
    except (pl.exceptions.PolarsError, OSError) as cause:
        raise _unexpected(answer, "the Arrow stream is torn; the service failed midway") from cause
    return found.with_columns(
        pl.col("row") + first,
        model_name=pl.lit(answer.headers.get("X-Model-Name", "")),
        model_version=pl.lit(answer.headers.get("X-Model-Version", "")),
    )


@contextlib.contextmanager
def _kept_table(found: list[pl.DataFrame], asked: int) -> Iterator[None]:
    """An error in here carries the rows that were answered before it."""
    try:
        yield
    except ServiceError as error:
        error.table = _joined(found) if found else None
        _tell_answered(error, sum(map(len, found)), asked, "table")
        raise


def _joined(parts: list[pl.DataFrame]) -> pl.DataFrame:
    import polars as pl

    if not parts:
        raise UsageError("the table has no row; send at least one patient")
    return pl.concat(parts)


# -- the clients -----------------------------------------------------------------------------


class Client:
    """A service over HTTP; connections are kept, so make one and close it (or use ``with``).

    Parameters
    ----------
    url : where the service answers, with the prefix it stands behind, if any.
    api_key : sent as ``X-API-Key``; shown nowhere.
    timeout : seconds to connect, and again between two pieces of an answer.
    retries : how patiently a busy service is asked again; ``ONCE`` for not at all.
    transport : an ``httpx2`` transport, for proxies, client certificates and tests.

    Raises
    ------
    UsageError
        The address or the key could not be one.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 10.0,
        retries: Retries | None = None,
        transport: httpx2.BaseTransport | None = None,
    ):
        self._http = httpx2.Client(**_base(url, api_key, timeout, transport))
        self._retries = retries or Retries()

    def predict(
        self,
        patient: Patient,
        *,
        detail: Detail = "standard",
        coding: Coding | None = None,
        request_id: str | None = None,
    ) -> Prediction:
        """The probability of disease for one patient.

        Parameters
        ----------
        patient : attribute to number, word or None; NaN is missing too.
        detail : how much the answer says; ``full`` adds reasons and data quality.
        coding : of the codes, UCI's when left out.
        request_id : names the request in the service's log; 1 to 64 of ``A-Za-z0-9._-``.

        Raises
        ------
        RecordError
            A value that JSON has no form for.
        UsageError
            The request id is unfit.
        RefusedError
            The service will not answer this; ``problems`` names each field and its mend.
        ServiceUnavailableError
            It cannot be asked now.
        UnexpectedAnswerError
            It failed.
        """
        return _read(self._ask(_one(patient, detail, coding, request_id)), Prediction)

    def predict_batch(
        self,
        patients: Iterable[Patient],
        *,
        coding: Coding | None = None,
        max_rows: int = MAX_ROWS,
        request_id: str | None = None,
    ) -> Batch:
        """The answers to several patients, in their order; a bad row does not stop the others.

        Parameters
        ----------
        patients : each as for ``predict``.
        coding : of all codes.
        max_rows : patients in one request; more are sent in several.
        request_id : of each of these requests.

        Raises
        ------
        RecordError
            A value that JSON has no form for; nothing was sent.
        ServiceError
            As ``predict``; ``answered`` holds the rows of earlier parts.
        """
        rows: list[Row] = []
        everybody = list(patients)
        for part in list(_parts(everybody, coding, max_rows, request_id)):
            asked = min(max_rows, len(everybody) - len(rows))
            with _kept(rows, len(everybody)):
                rows += _rows(self._ask(part), len(rows), asked)
        return Batch(tuple(rows))

    def predict_table(
        self,
        frame: Any,
        *,
        coding: Coding | None = None,
        max_rows: int = MAX_TABLE_ROWS,
        request_id: str | None = None,
    ) -> pl.DataFrame:
        """The answers to a table, sent and answered as Arrow: the quickest for many rows.

        Parameters
        ----------
        frame : a polars or pandas table with the contract's columns.
        coding, max_rows, request_id : as for ``predict_batch``.

        Returns
        -------
        polars table with a row for each row: ``row``, ``probability``, ``calibration_low``,
        ``calibration_high``, ``prediction``, ``label``, ``panel``, ``abstain``, ``error`` (JSON
        text), ``model_name``, ``model_version``.

        Raises
        ------
        ServiceError
            As ``predict``; its ``table`` holds the rows of earlier parts.
        UsageError
            The table has no row.
        """
        found: list[pl.DataFrame] = []
        for part in _slices(frame, coding, max_rows, request_id):
            with _kept_table(found, len(frame)):
                found.append(_table(self._ask(part), sum(map(len, found))))
        return _joined(found)

    def model(self) -> Model:
        """The model that answers, its validation and its card."""
        return _read(self._ask(_got("/v1/model")), Model)

    def schema(self) -> Schema:
        """The contract the service keeps."""
        return _read(self._ask(_got("/v1/schema")), Schema)

    def health(self) -> Health:
        """The verified model; asked once.

        Raises
        ------
        ServiceUnavailableError
            There is none.
        """
        return _read(self._ask(_got("/health"), ONCE), Health)

    def ready(self) -> Readiness:
        """Whether predictions can be asked for; asked once, and an absent service is not ready."""
        try:
            return _is_ready(self._http.request(**_got("/readyz")))
        except httpx2.TransportError as failure:
            return Readiness(is_ready=False, reason=f"unreachable ({type(failure).__name__})")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, request: dict[str, Any], retries: Retries | None = None) -> httpx2.Response:
        patience = _Patience(retries or self._retries)
        while True:
            try:
                answer = self._http.request(**request)
            except httpx2.DecodingError as failure:
                raise UnexpectedAnswerError(_UNPACKED) from failure
            except httpx2.TransportError as failure:
                wait = patience.after_failure(failure)
            else:
                if answer.status_code not in _ASKED_AGAIN:
                    return answer
                wait = patience.after_answer(answer)
            time.sleep(wait)


class AsyncClient:
    """``Client`` for asynchronous code: the same parameters, methods, answers and errors."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 10.0,
        retries: Retries | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ):
        self._http = httpx2.AsyncClient(**_base(url, api_key, timeout, transport))
        self._retries = retries or Retries()

    async def predict(
        self,
        patient: Patient,
        *,
        detail: Detail = "standard",
        coding: Coding | None = None,
        request_id: str | None = None,
    ) -> Prediction:
        """See ``Client.predict``."""
        return _read(await self._ask(_one(patient, detail, coding, request_id)), Prediction)

    async def predict_batch(
        self,
        patients: Iterable[Patient],
        *,
        coding: Coding | None = None,
        max_rows: int = MAX_ROWS,
        request_id: str | None = None,
    ) -> Batch:
        """See ``Client.predict_batch``."""
        rows: list[Row] = []
        everybody = list(patients)
        for part in list(_parts(everybody, coding, max_rows, request_id)):
            asked = min(max_rows, len(everybody) - len(rows))
            with _kept(rows, len(everybody)):
                rows += _rows(await self._ask(part), len(rows), asked)
        return Batch(tuple(rows))

    async def predict_table(
        self,
        frame: Any,
        *,
        coding: Coding | None = None,
        max_rows: int = MAX_TABLE_ROWS,
        request_id: str | None = None,
    ) -> pl.DataFrame:
        """See ``Client.predict_table``."""
        found: list[pl.DataFrame] = []
        for part in _slices(frame, coding, max_rows, request_id):
            with _kept_table(found, len(frame)):
                found.append(_table(await self._ask(part), sum(map(len, found))))
        return _joined(found)

    async def model(self) -> Model:
        """See ``Client.model``."""
        return _read(await self._ask(_got("/v1/model")), Model)

    async def schema(self) -> Schema:
        """See ``Client.schema``."""
        return _read(await self._ask(_got("/v1/schema")), Schema)

    async def health(self) -> Health:
        """See ``Client.health``."""
        return _read(await self._ask(_got("/health"), ONCE), Health)

    async def ready(self) -> Readiness:
        """See ``Client.ready``."""
        try:
            return _is_ready(await self._http.request(**_got("/readyz")))
        except httpx2.TransportError as failure:
            return Readiness(is_ready=False, reason=f"unreachable ({type(failure).__name__})")

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _ask(
        self, request: dict[str, Any], retries: Retries | None = None
    ) -> httpx2.Response:
        patience = _Patience(retries or self._retries)
        while True:
            try:
                answer = await self._http.request(**request)
            except httpx2.DecodingError as failure:
                raise UnexpectedAnswerError(_UNPACKED) from failure
            except httpx2.TransportError as failure:
                wait = patience.after_failure(failure)
            else:
                if answer.status_code not in _ASKED_AGAIN:
                    return answer
                wait = patience.after_answer(answer)
            await asyncio.sleep(wait)
