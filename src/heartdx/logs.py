"""Log lines: event first, then ``key=value`` on a terminal, or one JSON object a line.

No patient's attribute values are logged at any level.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

LOGGER = "heartdx"
THOUSANDTHS = tuple(f"{number:03d}" for number in range(1000))
"""Three digits for each number below a thousand: a look costs a fifth of writing them."""


def get(name: str) -> logging.Logger:
    """The project's logger of that name."""
    return logging.getLogger(f"{LOGGER}.{name}")


def event(logger: logging.Logger, what: str, *, level: int = logging.INFO, **facts: object) -> None:
    """Log one event with its facts."""
    logger.log(level, what, extra={"facts": facts})


def places(bug: BaseException) -> list[str]:
    """Where a bug came through: file, line and function of each frame, no message and no value."""
    frames = traceback.extract_tb(bug.__traceback__)
    return [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames]


class TextFormatter(logging.Formatter):
    """``12:00:01 fetched rows=920 source=embedded``."""

    def format(self, record: logging.LogRecord) -> str:
        facts = " ".join(
            f"{key}={_quoted(value)}" for key, value in getattr(record, "facts", {}).items()
        )
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = "" if record.levelno < logging.WARNING else f"{record.levelname} "
        line = f"{clock} {level}{record.getMessage()}" + (f" {facts}" if facts else "")
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (UTC), ``level``, ``event``, then the facts."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class LineHandler(logging.StreamHandler):
    """A stream handler that also takes finished lines, many at once."""

    def write_lines(self, text: str) -> None:
        """Write whole lines, each ended by a newline."""
        with contextlib.suppress(OSError, ValueError):  # a closed pipe must not stop an answer
            self.acquire()
            try:
                self.stream.write(text)
                self.flush()
            finally:
                self.release()


class Lines:
    """Log lines of the hot path: written together, a moment later.

    A line costs a fraction of a ``LogRecord``; locking and writing are paid once for many. A
    process that is killed loses the lines of its last ``delay``.

    Parameters
    ----------
    delay : seconds between a line and its writing.
    """

    def __init__(self, delay: float = 0.1):
        self.wanted = False
        self._delay = delay
        self._waiting: list[str] = []
        self._ahead = 0.0
        self._second = 0
        self._stamp = ""
        self._later: Callable[..., object] | None = None

    def start(self, later: Callable[..., object]) -> None:
        """Begin, with an event loop's ``call_later``."""
        self.wanted = logging.getLogger(LOGGER).isEnabledFor(logging.INFO)
        self._later = later

    def add(self, clock: float, rest: str) -> None:
        """Add one line of level info.

        Parameters
        ----------
        clock : seconds of ``time.perf_counter`` at the event.
        rest : the JSON text from the event's name to the newline.
        """
        if not self._waiting:
            self._begin(clock)
        now = clock + self._ahead
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        millis = THOUSANDTHS[int((now - second) * 1000)]
        self._waiting.append(f'{{"time":"{self._stamp}.{millis}Z","level":"info","event":{rest}')

    def flush(self) -> None:
        """Write what waits."""
        waiting, self._waiting = self._waiting, []
        text = "".join(waiting)
        for handler in logging.getLogger(LOGGER).handlers:
            if text and isinstance(handler, LineHandler):
                handler.write_lines(text)

    def _begin(self, clock: float) -> None:
        """Have lines written soon, and look how far the time of day is ahead of the clock."""
        self._ahead = time.time() - clock
        if self._later is not None:
            self._later(self._delay, self.flush)


def set_up(*, level: str = "INFO", as_json: bool = False) -> None:
    """Send the project's log lines to stderr; called once, by an entry."""
    handler = LineHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logger = logging.getLogger(LOGGER)
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text) if text == "" or any(c.isspace() for c in text) else text
