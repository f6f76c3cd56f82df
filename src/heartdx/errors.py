"""The error tree and the exit codes.

::

    HeartdxError                 what a user can mend: one sentence, no traceback      exit
    ├── UsageError               the command or a setting is wrong                     2
    ├── ContractError            data break the contract                               3
    │   ├── CodingError          a file's coding is unknown, mixed or ambiguous        3
    │   └── RecordError          cells of one patient are wrong (``problems`` lists)   3
    ├── GateError                a quality gate refused a model                        4
    ├── VerificationError        bytes are not what they claim to be                   6
    │   └── BundleError          a model bundle is damaged, foreign or mismatched      6
    └── UnavailableError         a source, a service or a file cannot be reached       7
        └── NoModelError         there is no trained model yet                         7

Anything else that escapes is a bug and keeps its traceback. 130 means interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass

EXIT_DONE = 0
EXIT_INTERRUPTED = 130


class HeartdxError(Exception):
    """Something a user can mend; its text is one sentence that says how."""

    exit_code = 2


class UsageError(HeartdxError):
    """The command line or a setting is wrong."""


class ContractError(HeartdxError):
    """Data break the contract."""

    exit_code = 3


class CodingError(ContractError):
    """The coding of a file is unknown, mixed, ambiguous or deceptive."""


@dataclass(frozen=True)
class FieldProblem:
    """What is wrong with one field of one patient; never holds the value itself.

    Parameters
    ----------
    field : the attribute's name as received, or the path inside a request.
    kind : a stable word: ``missing``, ``unknown``, ``type``, ``range``, ``code``, ``coding``.
    expected : what would have been right, in words.
    mend : what to do next.
    record : the 0-based place of the record in its batch, None when there is one only.
    """

    field: str
    kind: str
    expected: str
    mend: str
    record: int | None = None

    def __str__(self) -> str:
        where = f"record {self.record}, " if self.record is not None else ""
        return f"{where}{self.field}: expected {self.expected}; {self.mend}"


class RecordError(ContractError):
    """One or more cells of a record break the contract."""

    def __init__(self, problems: tuple[FieldProblem, ...] | list[FieldProblem]):
        self.problems = tuple(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))


class GateError(HeartdxError):
    """A model did not pass a quality gate."""

    exit_code = 4


class VerificationError(HeartdxError):
    """Bytes are not what they claim to be."""

    exit_code = 6


class BundleError(VerificationError):
    """A model bundle is damaged, foreign or made for another contract."""


class UnavailableError(HeartdxError):
    """A source, a service or a file cannot be reached or written."""

    exit_code = 7


class NoModelError(UnavailableError):
    """There is no trained model to load."""
