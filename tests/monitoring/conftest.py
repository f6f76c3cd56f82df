"""The stage, set once for all tests that look at it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from courses import Stage, staged


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("stage")) as played:
        yield played
