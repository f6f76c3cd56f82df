"""Log lines: event first, then ``key=value`` on a terminal, or one JSON object a line.

No patient's attribute values are logged at any level.
"""

from __future__ import annotations

import json
import logging
import sys
import time

LOGGER = "heartdx"


def get(name: str) -> logging.Logger:
    """The project's logger of that name."""
    return logging.getLogger(f"{LOGGER}.{name}")


def event(logger: logging.Logger, what: str, *, level: int = logging.INFO, **facts: object) -> None:
    """Log one event with its facts."""
    logger.log(level, what, extra={"facts": facts})


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


def set_up(*, level: str = "INFO", as_json: bool = False) -> None:
    """Send the project's log lines to stderr; called once, by an entry."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logger = logging.getLogger(LOGGER)
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text) if text == "" or any(c.isspace() for c in text) else text
