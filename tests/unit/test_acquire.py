"""Data come from UCI or from the package, checked, or the old file stays and the reason is said."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from heartdx import acquire, embedded
from heartdx.contract import SITES
from heartdx.errors import UnavailableError, UsageError, VerificationError

SHIPPED = {f"/{site.file}": embedded.site_bytes(site) for site in SITES}
Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """A real server on loopback that answers every GET that way."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):
                answer(self)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def sends(content: Callable[[str], bytes], *, promised: int | None = None) -> Answer:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        body = content(request.path)
        request.send_response(200)
        request.send_header("Content-Length", str(len(body) if promised is None else promised))
        request.end_headers()
        request.wfile.write(body)

    return answer


def faithful(path: str) -> bytes:
    return SHIPPED[path]


def one_cell_changed(path: str) -> bytes:
    return SHIPPED[path].replace(b"63.0", b"64.0", 1)


def web_page(path: str) -> bytes:
    return b"<!DOCTYPE html><html><body>Please log in</body></html>"


def redirects_to(address: str) -> Answer:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", address)
        request.end_headers()

    return answer


def not_found(request: http.server.BaseHTTPRequestHandler) -> None:
    request.send_error(404)


def drips(request: http.server.BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    for _ in range(100):
        request.wfile.write(b"63.0,")
        request.wfile.flush()
        time.sleep(0.05)


def silent(request: http.server.BaseHTTPRequestHandler) -> None:
    time.sleep(1.0)


CUT = sends(lambda path: SHIPPED[path][:5000], promised=18_461)
ENDLESS = sends(lambda path: b"6" * 1_100_000)


@pytest.fixture
def told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("heartdx"), "propagate", True)
    caplog.set_level("DEBUG", logger="heartdx")
    return caplog


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "heart.csv"
    path.write_bytes(b"the old file")
    return path


def provenance(fetched: acquire.Fetched) -> dict:
    return json.loads(fetched.provenance.read_text(encoding="utf-8"))


# -- what arrives -----------------------------------------------------------------------------


def test_uci_and_the_shipped_copy_give_the_same_bytes(tmp_path: Path) -> None:
    with serving(sends(faithful)) as url:
        theirs = acquire.fetch(tmp_path / "uci.csv", source="uci", url=url)
    ours = acquire.fetch(tmp_path / "embedded.csv", source="embedded")

    assert (theirs.source, ours.source) == ("uci", "embedded")
    assert theirs.output.read_bytes() == ours.output.read_bytes()
    assert theirs.sha256 == ours.sha256 == hashlib.sha256(ours.output.read_bytes()).hexdigest()


def test_auto_takes_uci_when_it_can(tmp_path: Path) -> None:
    with serving(sends(faithful)) as url:
        fetched = acquire.fetch(tmp_path / "heart.csv", url=url + "/")

    assert fetched.source == "uci"
    assert provenance(fetched)["url"] == url + "/"
    assert provenance(fetched)["why_embedded"] is None


def test_one_hospital_costs_one_download_and_gives_its_patients_only(tmp_path: Path) -> None:
    asked: list[str] = []

    def noted(path: str) -> bytes:
        asked.append(path)
        return SHIPPED[path]

    with serving(sends(noted)) as url:
        fetched = acquire.fetch(tmp_path / "x.csv", source="uci", url=url, sites=["va"])

    assert asked == ["/processed.va.data"]
    assert fetched.sites == {"va": 200}
    assert fetched.output.read_bytes().count(b"\n") == 201


def test_the_provenance_says_where_the_data_come_from_and_what_was_done(tmp_path: Path) -> None:
    fetched = acquire.fetch(tmp_path / "heart.csv", source="embedded")

    said = provenance(fetched)
    assert fetched.provenance == tmp_path / "heart.csv.provenance.json"
    assert said["source"] == "embedded"
    assert said["sha256"] == fetched.sha256
    assert said["files"] == {site.file: site.sha256 for site in SITES}
    assert said["blanked_zeros"] == {
        "switzerland": {"chol": 123},
        "va": {"trestbps": 1, "chol": 49},
    }
    assert "CC BY 4.0" in said["licence"]
    assert "10.24432/C52P4X" in said["citation"]
    assert time.strptime(said["retrieved_at"], "%Y-%m-%dT%H:%M:%SZ")


# -- what fails -------------------------------------------------------------------------------

UNREACHABLE = [
    (CUT, "the connection was cut after 5000 of 18461 bytes"),
    (not_found, "the server answered 404"),
    (drips, "too slow, given up"),
    (silent, "timed out"),
    (redirects_to("http://example.org/x"), "redirected to an address that is not https"),
    (redirects_to("file:///etc/passwd"), "the server answered 302"),
]
WRONG = [
    (sends(one_cell_changed), "SHA-256 is"),
    (sends(web_page), "a web page came instead of data"),
    (ENDLESS, "more than 1000000 bytes came"),
]
NAMES_OF = ["cut", "404", "drip", "silent", "redirect", "redirect to a file"]


@pytest.mark.parametrize(("answer", "reason"), UNREACHABLE, ids=NAMES_OF)
def test_uci_out_of_reach_is_an_error_that_leaves_the_old_file(
    old: Path, answer: Answer, reason: str
) -> None:
    with serving(answer) as url, pytest.raises(UnavailableError, match=reason) as refusal:
        acquire.fetch(old, source="uci", url=url, timeout=0.4)

    assert refusal.value.exit_code == 7
    assert old.read_bytes() == b"the old file"
    assert [p.name for p in old.parent.iterdir()] == ["heart.csv"]


@pytest.mark.parametrize(("answer", "reason"), WRONG, ids=["checksum", "web page", "endless"])
def test_bytes_that_are_not_ucis_are_an_error_that_leaves_the_old_file(
    old: Path, answer: Answer, reason: str
) -> None:
    with serving(answer) as url, pytest.raises(VerificationError, match=reason) as refusal:
        acquire.fetch(old, source="uci", url=url, timeout=5)

    assert refusal.value.exit_code == 6
    assert old.read_bytes() == b"the old file"


def test_a_connection_reset_half_way_is_an_error_that_leaves_the_old_file(old: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def answer_and_reset() -> None:
            connection, _ = listener.accept()
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n800\r\n63.0,")
            connection.close()

        thread = threading.Thread(target=answer_and_reset)
        thread.start()
        with pytest.raises(UnavailableError, match="cannot be reached"):
            acquire.fetch(old, source="uci", url=f"http://127.0.0.1:{port}", timeout=5)
        thread.join()

    assert old.read_bytes() == b"the old file"


def test_auto_without_a_network_takes_the_shipped_copy_and_says_why(
    tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = listener.getsockname()[1]

    fetched = acquire.fetch(tmp_path / "heart.csv", url=f"http://127.0.0.1:{closed}")

    assert (fetched.source, fetched.rows) == ("embedded", 920)
    assert "cannot be reached" in provenance(fetched)["why_embedded"]
    assert told.records[0].levelname == "INFO"
    assert "using the copy shipped with heartdx" in told.records[0].getMessage()
    assert "Connection refused" in told.records[0].__dict__["facts"]["why"]


@pytest.mark.parametrize(("answer", "reason"), WRONG, ids=["checksum", "web page", "endless"])
def test_auto_with_wrong_bytes_warns_loudly_and_takes_the_shipped_copy(
    tmp_path: Path, told: pytest.LogCaptureFixture, answer: Answer, reason: str
) -> None:
    with serving(answer) as url:
        fetched = acquire.fetch(tmp_path / "heart.csv", url=url, timeout=5)

    assert fetched.source == "embedded"
    assert reason in provenance(fetched)["why_embedded"]
    assert told.records[0].levelname == "WARNING"
    assert reason in told.records[0].__dict__["facts"]["why"]


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/data/",
        "ftp://example.org/data/",
        "file:///etc/",
        "example.org/data",
        "https://",
        "http://127.0.0.1.example.org/",
        "https://user:secret@example.org/",
    ],
)
def test_an_address_that_is_not_https_or_holds_a_password_is_refused(
    tmp_path: Path, url: str
) -> None:
    with pytest.raises(UsageError, match="--url") as refusal:
        acquire.fetch(tmp_path / "heart.csv", url=url)

    assert "secret" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_the_default_address_is_ucis_over_https() -> None:
    assert acquire.UCI_URL.startswith("https://archive.ics.uci.edu/")


def test_a_hospital_that_uci_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="site bern: unknown; the four are cleveland"):
        acquire.fetch(tmp_path / "heart.csv", source="embedded", sites=["bern"])


def test_a_source_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected one of auto, uci, embedded"):
        acquire.fetch(tmp_path / "heart.csv", source="kaggle")  # type: ignore[arg-type]


def test_a_full_disk_leaves_the_old_file_and_says_so(old: Path) -> None:
    code = f"""
import resource, signal
from pathlib import Path
from heartdx import acquire
from heartdx.errors import UnavailableError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
try:
    acquire.fetch(Path({str(old)!r}), source="embedded")
except UnavailableError as refusal:
    print(refusal)
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "cannot be written" in done.stdout
    assert old.read_bytes() == b"the old file"
    assert [p.name for p in old.parent.iterdir()] == ["heart.csv"]


def test_a_changed_installed_copy_is_never_used(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for site in SITES:
        (tmp_path / site.file).write_bytes(embedded.site_bytes(site) + b"\n")
    monkeypatch.setattr(embedded.resources, "files", lambda _: tmp_path)

    with pytest.raises(VerificationError, match="reinstall heartdx"):
        acquire.fetch(old, source="embedded")

    assert old.read_bytes() == b"the old file"
