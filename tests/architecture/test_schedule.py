"""Two workers share the tests as tests/schedule.py says; with a mark alone they did not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import schedule

ROOT = Path(__file__).resolve().parents[2]
SIX = "import pytest\n@pytest.mark.parametrize('turn', range(6))\ndef test_it(turn): pass\n"
CONFTEST = """
import sys
sys.path.insert(0, {tests!r})
import schedule

def pytest_collection_modifyitems(items):
    schedule.longest_first(items)

def pytest_xdist_make_scheduler(config, log):
    return schedule.Scheduler(config, log)
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> list[tuple[str, str]]:
    """(worker, file) of every test as two workers ended them."""
    folder = tmp_path_factory.mktemp("shared")
    for file in ("tests/architecture/test_short.py", schedule.TOGETHER[0]):
        (folder / file).parent.mkdir(parents=True)
        (folder / file).write_text(SIX)
    (folder / "conftest.py").write_text(CONFTEST.format(tests=str(ROOT / "tests")))
    command = ["-m", "pytest", "-n", "2", "--dist", "loadgroup", "-v", "-p", "no:cacheprovider"]
    finished = subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stdout
    return re.findall(r"^\[(gw\d)\].*PASSED (\S+)::", finished.stdout, re.MULTILINE)


def test_a_file_that_shares_a_port_stays_on_one_worker(shared) -> None:
    workers = [worker for worker, file in shared if file == schedule.TOGETHER[0]]

    assert len(workers) == 6
    assert len(set(workers)) == 1


def test_the_other_tests_go_to_whichever_worker_is_free(shared) -> None:
    busy = next(worker for worker, file in shared if file == schedule.TOGETHER[0])
    others = [worker for worker, file in shared if file != schedule.TOGETHER[0]]

    assert len(others) == 6
    assert set(others) - {busy}


@pytest.mark.parametrize("file", sorted({*schedule.LONGEST_FIRST, *schedule.TOGETHER}))
def test_every_file_of_the_schedule_exists(file: str) -> None:
    assert (ROOT / file).is_file()
