"""Fixtures made once for the whole run: the data, a small training, its folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

import schedule
from heartdx import acquire, checks
from training_kit import Trained, once, train, trained_once

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    schedule.longest_first(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    return schedule.Scheduler(config, log) if config.option.dist == "loadgroup" else None


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """In this process: arrays this small lose more to waiting threads than they win."""
    with threadpool_limits(limits=1):
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def heart_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 920 patients as ``fetch`` writes them."""

    def make(folder: Path) -> None:
        acquire.fetch(folder / "heart.csv", source="embedded")

    return once(tmp_path_factory, "data", make) / "heart.csv"


@pytest.fixture(scope="session")
def loaded(heart_csv: Path) -> checks.Loaded:
    return checks.load(heart_csv)


@pytest.fixture(scope="session")
def trained(heart_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """``heartdx train`` with the smallest protocol, tracked into its own folder."""
    return trained_once(tmp_path_factory, "trained", lambda folder: train(heart_csv, folder))
