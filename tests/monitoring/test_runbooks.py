"""Each command of docs/runbooks is run, in the order of its page, beside a service on call."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from incidents import two_models
from staging import ALERTMANAGER, ROOT, Prometheus, Service, free_port, until

PAGES = sorted((ROOT / "docs" / "runbooks").glob("HeartApi*.md"))
SECTIONS = ("Look", "Do")


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    running = Prometheus(tmp_path_factory.mktemp("asked"), {"heart-api": [free_port()]}, 9)
    try:
        until(running.answers, seconds=60, what="Prometheus answers")
        yield running
    finally:
        running.end()


@pytest.fixture
def on_call(tmp_path: Path) -> Iterator[Service]:
    """A service with a model and the one before it, started in the folder of the page."""
    service = Service(tmp_path, HEARTDX_LOG_LEVEL="INFO")
    two_models(service.models)
    other = next(b.name for b in (service.models / "bundles").iterdir())
    run(f"heartdx model use {other}", tmp_path)
    service.start()
    try:
        service.wait()
        yield service
    finally:
        service.end()


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HEARTDX_", "MODEL_"))}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command.replace("heartdx.log", "service.log")],
        cwd=folder,
        env={**kept, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_does_what_it_should(
    page: Path, on_call: Service, prometheus: Prometheus
):
    results = []
    for command in commands(page):
        here = command.replace(":8000", f":{on_call.port}").replace(":9090", f":{prometheus.port}")
        if here.startswith("grep"):  # ends with 1 where a healthy service has said nothing
            here = f"{{ {here}; }} || [ $? = 1 ]"
        result = run(here, on_call.folder)
        results.append((command, result.returncode, result.stderr))

    assert len(results) >= 3
    assert [result for result in results if result[1] != 0] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_says_what_it_means_where_to_look_and_what_to_do(page: Path):
    text = page.read_text()

    assert text.startswith(f"# {page.stem}\n\n**Means.** ")
    assert tuple(re.findall(r"^## (.+)$", text, re.MULTILINE)) == SECTIONS
    assert len(text.split()) < 320


def test_every_link_of_the_pages_leads_somewhere():
    for page in (ROOT / "docs" / "runbooks").glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)


def test_the_readme_tells_the_truth_of_where_alerts_go():
    assert set(re.findall(r"https?://[^\s]+", ALERTMANAGER.read_text())) == {
        "http://127.0.0.1:9099/page",
        "http://127.0.0.1:9099/ticket",
    }
