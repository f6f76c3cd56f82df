"""Which tests run first and which stay on one worker, when two workers share the work.

A test that takes a minute must not start last, and what a file's tests share (a service on port
8000, an environment that takes a minute to make) must be made once. pytest-xdist's own
``xdist_group`` is no help here: from pytest 9.2 on it parts a group's tests without a word
(pytest-dev/pytest-xdist #1386).
"""

from __future__ import annotations

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

LONGEST_FIRST = (
    "tests/runbook/test_runbook.py",
    "tests/runbook/test_front_door.py",
    "tests/model/test_training.py",
    "tests/unit/test_simulation.py",
    "tests/model/test_tracking.py",
    "tests/model/test_evaluation.py",
    "tests/model/test_external.py",
    "tests/model/test_parity.py",
    "tests/model/test_bundle.py",
    "tests/unit/test_missing_data.py",
    "tests/service/test_service_document.py",
    "tests/runbook/test_pages.py",
    "tests/service/test_soak.py",
)
"""Files by the time that one of their tests can take, set-up included; the others follow."""
TOGETHER = (
    "tests/runbook/test_runbook.py",
    "tests/unit/test_simulation.py",
    "tests/service/test_soak.py",
)
"""Files whose tests share what is costly to make, or a port: one worker runs them all."""


def file_of(nodeid: str) -> str:
    """The file of a test.

    Examples
    --------
    >>> file_of("tests/unit/test_cli.py::test_it[a::b]")
    'tests/unit/test_cli.py'
    """
    return nodeid.partition("::")[0]


def longest_first(items: list[pytest.Item]) -> None:
    """Sort the tests by their file's place in ``LONGEST_FIRST``; the others keep their order."""
    place = {file: number for number, file in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(file_of(item.nodeid), len(place)))


class Scheduler(LoadScopeScheduling):
    """Hands out whole files of ``TOGETHER`` and all else test by test, in the order collected."""

    def __init__(self, config: pytest.Config, log: object) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return file_of(nodeid) if file_of(nodeid) in TOGETHER else nodeid
