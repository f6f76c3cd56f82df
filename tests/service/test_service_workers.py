"""Several real workers count as one, whatever happens to one of them."""

import multiprocessing
import os
import re
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from service_kit import PATIENT

from heartdx.errors import UnavailableError
from heartdx.serve import workers

NAMED = {"endpoint": "/predict", "http_status": "200", "method": "POST"}


def ask(served, times: int) -> None:
    """Send patients, each over a connection of its own, so that both workers get some."""

    def one(_):
        return httpx2.post(served.url + "/predict", json=PATIENT).status_code

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(one, range(times))) == {200}


def scrape(served, name: str) -> dict[tuple, float]:
    text = httpx2.get(served.url + "/metrics").raise_for_status().text
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def answered(served) -> float:
    return scrape(served, "api_requests_total").get(tuple(sorted(NAMED.items())), 0)


def worker_pids(served) -> list[int]:
    """The uvicorn workers; multiprocessing's resource tracker is a child too."""
    children = psutil.Process(served.process.pid).children()
    living = [c for c in children if c.status() != psutil.STATUS_ZOMBIE]
    return [c.pid for c in living if any("spawn_main" in word for word in c.cmdline())]


def own_folder(place):
    [folder] = place.glob(workers.PREFIX + "*")
    return folder


@pytest.fixture
def two_workers(serve, models_dir, tmp_path):
    settings = {"HEARTDX_MODELS_DIR": str(models_dir), "TMPDIR": str(tmp_path)}
    served = serve(settings, "--workers", "2")
    served.wait_until_alive()
    end = time.monotonic() + 20
    while len(list(tmp_path.glob("*/gauge_livemin_*.db"))) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    return served


def test_any_worker_reports_the_sum_of_both(two_workers, tmp_path):
    ask(two_workers, 150)

    assert [answered(two_workers) for _ in range(12)] == [150] * 12
    latency = scrape(two_workers, "api_request_latency_seconds_count")
    assert latency[(("endpoint", "/predict"),)] == 150
    assert sum(scrape(two_workers, "heartdx_predictions_total").values()) == 150
    assert len(list(own_folder(tmp_path).glob("counter_*.db"))) == 2
    assert set(scrape(two_workers, "heartdx_model_info").values()) == {1}
    assert scrape(two_workers, "heartdx_model_ready") == {(): 1}


def test_a_killed_worker_takes_no_count_with_it(two_workers, tmp_path):
    ask(two_workers, 60)
    victim = worker_pids(two_workers)[0]

    os.kill(victim, signal.SIGKILL)
    totals = watch_until(two_workers, lambda: len(set(worker_pids(two_workers)) - {victim}) == 2)
    ask(two_workers, 40)

    assert set(totals) == {60}
    assert [answered(two_workers) for _ in range(8)] == [100] * 8
    assert not list(own_folder(tmp_path).glob(f"gauge_live*_{victim}.db"))
    assert len(scrape(two_workers, "heartdx_model_info")) == 1


def test_a_rolling_restart_keeps_the_counts(two_workers, tmp_path):
    ask(two_workers, 30)
    before = set(worker_pids(two_workers))

    two_workers.process.send_signal(signal.SIGHUP)
    totals = watch_until(two_workers, lambda: not before & set(worker_pids(two_workers)))
    ask(two_workers, 10)

    assert set(totals) == {30}
    assert answered(two_workers) == 40
    left = {re.search(r"_(\d+)\.db", p.name)[1] for p in own_folder(tmp_path).glob("gauge_live*")}
    assert not {str(pid) for pid in before} & left


def watch_until(served, is_over) -> list[float]:
    """The total seen again and again, over and past an event."""
    totals, end = [], time.monotonic() + 30
    while not is_over():
        assert time.monotonic() < end, served.stop()
        totals.append(try_answered(served))
        time.sleep(0.05)
    totals += [try_answered(served) for _ in range(5)]
    return [total for total in totals if total is not None]


def try_answered(served) -> float | None:
    try:
        return answered(served)
    except httpx2.TransportError:  # the connection was in the killed worker's queue
        return None


def test_one_worker_needs_no_folder(serve, models_dir, tmp_path):
    served = serve({"HEARTDX_MODELS_DIR": str(models_dir), "TMPDIR": str(tmp_path)})
    served.wait_until_alive()
    ask(served, 5)

    assert answered(served) == 5
    assert list(tmp_path.iterdir()) == []


def test_folders_of_parents_that_are_gone_are_removed(serve, models_dir, tmp_path):
    me = os.getpid()
    born = workers._birth(me)
    gone = [f"{workers.PREFIX}999999999-5", f"{workers.PREFIX}{me}-1"]  # the second: a pid reused
    kept = [f"{workers.PREFIX}{me}-{born}", f"{workers.PREFIX}notes", "other"]
    for name in gone + kept:
        (tmp_path / name).mkdir()
        (tmp_path / name / "counter_1.db").touch()

    settings = {"HEARTDX_MODELS_DIR": str(models_dir), "TMPDIR": str(tmp_path)}
    served = serve(settings, "--workers", "2")
    served.wait_until_alive()

    found = {path.name for path in tmp_path.iterdir()}
    assert found == {*kept, f"{workers.PREFIX}{served.process.pid}-{birth_of(served)}"}


def birth_of(served) -> str | None:
    return workers._birth(served.process.pid)


def test_a_folder_named_by_the_operator_is_used(serve, models_dir, tmp_path):
    named = tmp_path / "named" / "deep"
    settings = {"HEARTDX_MODELS_DIR": str(models_dir), workers.VARIABLE: str(named)}
    served = serve(settings, "--workers", "2")
    served.wait_until_alive()
    ask(served, 20)

    assert [answered(served) for _ in range(4)] == [20] * 4
    assert list(named.glob("counter_*.db"))


# -- edges -----------------------------------------------------------------------------------


@pytest.fixture
def as_worker(monkeypatch, tmp_path):
    """This process as a worker of a parent with its own pid, before prometheus_client."""

    class Parent:
        pid = os.getpid()

    monkeypatch.setattr(multiprocessing, "parent_process", Parent)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.delitem(sys.modules, "prometheus_client")
    return tmp_path / f"{workers.PREFIX}{os.getpid()}-{workers._birth(os.getpid())}"


def test_sister_workers_find_the_same_private_folder(as_worker):
    environments = [{}, {}]

    folders = [workers.share_metrics(environment) for environment in environments]

    assert folders == [as_worker, as_worker]
    assert environments[0] == environments[1] == {workers.VARIABLE: str(as_worker)}
    assert as_worker.stat().st_mode & 0o777 == 0o700


def test_a_link_laid_in_the_way_is_refused(as_worker, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    as_worker.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(UnavailableError, match="belongs to somebody else"):
        workers.share_metrics({})


def test_no_writable_place_is_told_with_its_mend(as_worker, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "file"))

    with pytest.raises(UnavailableError, match="mount one at /tmp"):
        workers.share_metrics({})


def test_a_late_call_is_a_bug(as_worker, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", object())

    with pytest.raises(RuntimeError, match="imported before"):
        workers.share_metrics({})


def test_without_proc_the_parents_key_tells_parents_apart(as_worker, monkeypatch):
    monkeypatch.setattr(workers, "_birth", lambda pid: None)

    folder = workers.share_metrics({})

    assert re.fullmatch(rf"{workers.PREFIX}{os.getpid()}-k[0-9a-f]{{16}}", folder.name)
    assert workers.share_metrics({}) == folder
