"""A service with a tiny bundle, in-process or as real uvicorn processes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_bundle
from service_kit import LogLines, Served, started
from starlette.testclient import TestClient

from heartdx import logs
from heartdx.settings import Settings


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_bundle.write(folder)
    return folder


@pytest.fixture(scope="module")
def client(models_dir: Path) -> Iterator[TestClient]:
    settings = Settings(models_dir=models_dir, max_records=50, max_body_bytes=100_000)
    with started(settings) as running:
        yield running


@pytest.fixture(scope="module")
def bare_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service without any model."""
    with started(Settings(models_dir=tmp_path_factory.mktemp("none"))) as running:
        yield running


@pytest.fixture
def log_lines(client: TestClient) -> Iterator[LogLines]:
    handler = LogLines(client.app.lines.flush)
    logging.getLogger(logs.LOGGER).addHandler(handler)
    yield handler
    logging.getLogger(logs.LOGGER).removeHandler(handler)


@pytest.fixture
def serve() -> Iterator:
    """Starts real services; all are ended after the test."""
    running: list[Served] = []

    def start(environment: dict[str, str], *arguments: str) -> Served:
        running.append(Served(environment, *arguments))
        return running[-1]

    yield start
    for served in running:
        if served.process.poll() is None:
            served.stop()
