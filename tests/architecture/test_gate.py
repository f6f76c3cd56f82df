"""The gate of this repository: what it runs alone, what beside each other, and how it fails.

``.ci/run`` is executed in a folder of its own, where `make` and the scripts of ops/ci are stand-ins
that say what they were asked.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GATE = (ROOT / ".ci" / "run").read_text()
ALONE = re.findall(r"^step ([a-z-]+)", GATE, re.M)
GROUPS = [
    [lane.split() for lane in re.findall(r"^lane ([a-z -]+)$", part, re.M)]
    for part in re.split(r"^join$", GATE, flags=re.M)[:-1]
]
LANES = [lane for group in GROUPS for lane in group]
IN_LANES = [target for lane in LANES for target in lane]
CLOSING = "===== 7 passed in 1.00s ====="
MAKE = f"""#!/bin/sh
echo "$1" >>called
echo "first line of $1"
case " $MEET " in *" $1 "*)
  touch "met-$1"
  for other in $MEET; do
    for _ in $(seq "$TRIES"); do [ -e "met-$other" ] && break; sleep 0.05; done
    [ -e "met-$other" ] || {{ echo "$1 never met $other"; exit 3; }}
  done ;;
esac
echo "last line of $1"
[ "$1" = "$BROKEN" ] && exit 2
echo "{CLOSING}"
"""


@pytest.fixture
def gate(tmp_path):
    (tmp_path / ".ci").mkdir()
    (tmp_path / "ops" / "ci").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    executable(tmp_path / "bin" / "make", MAKE)
    executable(tmp_path / "bin" / "docker", '#!/bin/sh\n[ -n "$DOCKER_RUNS" ]\n')
    for name in re.findall(r"ops/ci/([a-z-]+\.sh)", GATE):
        executable(
            tmp_path / "ops" / "ci" / name,
            '#!/bin/sh\n[ "$1" = start ] && echo "export HEART_API_ENGINE=here"\n'
            f'echo "{name} $*" >>called\n',
        )

    def run(**environment: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        done = subprocess.run(
            ["bash", ".ci/run"],
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done, (tmp_path / "called").read_text().split("\n")[:-1]

    return run


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def test_checks_and_tests_come_first_and_everything_asked_is_a_target():
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.M))

    assert ALONE[:2] == ["check", "test"]
    assert [len(group) for group in GROUPS] == [2]
    assert {*ALONE, *IN_LANES} <= targets


def test_what_computes_runs_alone_and_in_order_before_what_waits(gate):
    done, called = gate()

    assert done.returncode == 0, done.stderr
    asked = [name for name in called if not name.split()[0].endswith(".sh")]
    assert asked[: len(ALONE)] == ALONE
    assert sorted(asked[len(ALONE) :]) == sorted(IN_LANES)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: " | ".join(map(" ".join, group)))
def test_the_lanes_of_a_group_run_beside_each_other(group, gate):
    done, _ = gate(MEET=f"{group[0][0]} {group[1][0]}", TRIES="600")

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("first", "second"),
    [LANES[0][:2], LANES[1][:2]],
    ids=["of the first lane", "of the second"],
)
def test_the_targets_of_a_lane_run_one_after_the_other(first, second, gate):
    done, _ = gate(MEET=f"{first} {second}", TRIES="20")

    assert done.returncode != 0
    assert f"{first} never met {second}" in done.stdout


def test_each_targets_output_stays_whole_and_pytests_closing_line_is_the_last(gate):
    done, _ = gate()

    for target in [*ALONE, *IN_LANES]:
        assert f"first line of {target}\nlast line of {target}\n{CLOSING}\n" in done.stdout
        assert re.search(rf"^  {target} +\d+ s", done.stdout, re.M)
    assert done.stdout.splitlines()[-1] == CLOSING


@pytest.mark.parametrize("broken", ALONE)
def test_a_step_that_fails_ends_the_gate(broken, gate):
    done, called = gate(BROKEN=broken)

    assert done.returncode != 0
    assert called[-1] == broken
    assert "all passed" not in done.stdout


@pytest.mark.parametrize("broken", IN_LANES)
def test_a_target_that_fails_in_a_lane_fails_the_gate_and_shows_its_group_whole(broken, gate):
    done, called = gate(BROKEN=broken)

    assert done.returncode != 0
    assert "all passed" not in done.stdout
    assert broken in done.stderr.split("failed in the lanes:")[1]
    (number,) = (n for n, group in enumerate(GROUPS) if any(broken in lane for lane in group))
    own, other = sorted(GROUPS[number], key=lambda lane: broken not in lane)
    for target in other:
        assert f"last line of {target}\n{CLOSING}" in done.stdout
    for target in own[own.index(broken) + 1 :]:
        assert target not in called
        assert f"=== make {target} ===\nnot run" in done.stdout
    later = [target for group in GROUPS[number + 1 :] for lane in group for target in lane]
    assert not {*later} & {*called}


@pytest.mark.parametrize("environment", [{}, {"BROKEN": LANES[0][0]}], ids=["passed", "failed"])
def test_the_engine_that_the_gate_started_is_stopped(environment, gate):
    _, called = gate(**environment)

    assert called.count("docker-engine.sh start") == 1
    assert called[-1] == "docker-engine.sh stop"


def test_an_engine_that_runs_already_is_used_and_left_alone(gate):
    done, called = gate(DOCKER_RUNS="1", HEART_API_ENGINE="somebody's")

    assert done.returncode == 0, done.stderr
    assert "base-image.sh " in called
    assert not [line for line in called if line.startswith("docker-engine.sh")]
