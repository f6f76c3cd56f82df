"""At any moment of a crash there is the old whole file or the new whole file."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from heartdx import atomic
from heartdx.errors import UnavailableError

SIZE = 400_000
WRITER = """
import sys
from pathlib import Path
from heartdx import atomic
print("ready", flush=True)
turn = 0
while True:
    turn += 1
    atomic.write_bytes(Path(sys.argv[1]), bytes([65 + turn % 26]) * int(sys.argv[2]))
"""
FOLDER_WRITER = """
import sys
from pathlib import Path
from heartdx import atomic
print("ready", flush=True)
turn = 0
while True:
    turn += 1
    with atomic.folder(Path(sys.argv[1]) / str(turn)) as draft:
        for name in ("a", "b", "c"):
            (draft / name).write_bytes(b"x" * int(sys.argv[2]))
"""


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def killed_at_random(code: str, target: Path, *, seed: int, size: int) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(target), str(size)], stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    writer.stdout.readline()
    time.sleep(random.Random(seed).uniform(0.0, 0.08))
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()


def test_a_file_is_written_whole_with_its_folder(tmp_path: Path) -> None:
    target = tmp_path / "new" / "heart.csv"

    atomic.write_text(target, "é\n")

    assert target.read_bytes() == b"\xc3\xa9\n"
    assert names(target.parent) == ["heart.csv"]


def test_a_new_file_has_the_rights_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        atomic.write_text(tmp_path / "x", "x")
    finally:
        os.umask(before)

    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_kill_9_at_random_moments_leaves_a_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "heart.csv"
    target.write_bytes(b"A" * SIZE)

    seen = set()
    for seed in range(12):
        killed_at_random(WRITER, target, seed=seed, size=SIZE)
        content = target.read_bytes()
        seen.add(content[:1])

        assert len(content) == SIZE
        assert content == content[:1] * SIZE

    assert len(seen) > 1, "the writer was always killed before it wrote; the test proves nothing"


def test_kill_9_at_random_moments_leaves_whole_folders(tmp_path: Path) -> None:
    for seed in range(8):
        killed_at_random(FOLDER_WRITER, tmp_path / str(seed), seed=seed, size=50_000)

    folders = [p for p in tmp_path.glob("*/*") if not p.name.startswith(".")]
    assert folders
    for folder in folders:
        assert {p.name: p.stat().st_size for p in folder.iterdir()} == dict.fromkeys("abc", 50_000)


def test_a_full_disk_leaves_the_old_file_and_no_litter_and_says_so(tmp_path: Path) -> None:
    target = tmp_path / "heart.csv"
    target.write_bytes(b"old")
    code = f"""
import resource, signal
from pathlib import Path
from heartdx import atomic
from heartdx.errors import UnavailableError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    atomic.write_bytes(Path({str(target)!r}), b"n" * 5000)
except UnavailableError as refusal:
    print(refusal)
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "cannot be written" in done.stdout
    assert "untouched; free space or choose another place" in done.stdout
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["heart.csv"]


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")

    with pytest.raises(UnavailableError, match="cannot be written"):
        atomic.write_text(tmp_path / "file" / "heart.csv", "x")


def test_a_folder_appears_whole_and_an_existing_one_is_kept(tmp_path: Path) -> None:
    for word in ("first", "second"):
        with atomic.folder(tmp_path / "bundle") as draft:
            (draft / "part").write_text(word, encoding="utf-8")

    assert (tmp_path / "bundle" / "part").read_text(encoding="utf-8") == "first"
    assert names(tmp_path) == ["bundle"]


def test_a_folder_whose_making_failed_never_appears(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with atomic.folder(tmp_path / "bundle") as draft:
            (draft / "part").write_text("x", encoding="utf-8")
            raise KeyError("half way")

    with pytest.raises(KeyError):
        fail_half_way()

    assert names(tmp_path) == []


def test_a_draft_that_a_killed_process_left_long_ago_is_swept(tmp_path) -> None:
    old, fresh = tmp_path / ".heart.csv.a.tmp", tmp_path / ".heart.csv.b.tmp"
    old.write_text("half")
    fresh.write_text("being written by another process")
    long_ago = time.time() - 2 * atomic.ABANDONED_SECONDS
    os.utime(old, (long_ago, long_ago))

    atomic.write_text(tmp_path / "heart.csv", "whole")

    assert not old.exists()
    assert fresh.exists()


def test_a_link_keeps_pointing_to_its_file(tmp_path) -> None:
    target, link = tmp_path / "real.csv", tmp_path / "link.csv"
    target.write_text("old")
    link.symlink_to(target)

    atomic.write_text(link, "new")

    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        atomic.write_text(pipe, "through")

        assert reader.stdout.read() == b"through"
    assert pipe.is_fifo()
