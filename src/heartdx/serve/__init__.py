"""The service: FastAPI around one verified bundle.

::

    body ─ body (bytes to JSON) ─ inputs (records, the one door) ─► table
    table ─ predictor (Bundle.score) ─► answer          whatever is refused ─ problems ─► RFC 9457

Importing this package imports neither FastAPI nor prometheus_client: the latter decides at its
import whether workers share their counts, so :func:`from_environment` arranges that first.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import MutableMapping
from typing import TYPE_CHECKING

from heartdx import settings
from heartdx.errors import HeartdxError
from heartdx.serve import workers

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["create_app", "from_environment"]

WORKER_CANNOT_START = 3
"""uvicorn's STARTUP_FAILURE: with any other exit code its parent restarts the worker for ever."""


def from_environment(environment: MutableMapping[str, str] | None = None) -> FastAPI:
    """The service as its environment says; what an entry or ``uvicorn --factory`` calls.

    A wrong setting stops the start with one line on stderr and no traceback: exit code 2, or 3
    in a worker of several.

    Parameters
    ----------
    environment : the process's environment when left out.
    """
    surroundings = os.environ if environment is None else environment
    try:
        wanted = settings.read(surroundings)
        workers.share_metrics(surroundings)
        return create_app(wanted)
    except HeartdxError as refusal:
        sys.stderr.write(f"heartdx: {refusal}\n")
        in_worker = multiprocessing.parent_process() is not None
        raise SystemExit(WORKER_CANNOT_START if in_worker else refusal.exit_code) from None


def create_app(settings: settings.Settings) -> FastAPI:
    """The service as an ASGI application; the model loads when it starts.

    Raises
    ------
    UsageError
        ``settings.model_path`` names something that is never served.
    """
    from heartdx.serve.app import create_app as build

    return build(settings)
