"""Change of the model while serving: verified first, switched between two requests.

``models/current`` is read every few seconds. A new bundle is loaded, verified and tried on its
golden records in a thread while the old one answers; then one assignment makes it the model of
the next request. A bundle that is refused changes nothing: the old one stays.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from heartdx import bundle as bundles
from heartdx import logs, store
from heartdx.serve import predictor

if TYPE_CHECKING:
    from heartdx.serve.front import Service

_LOG = logs.get("serve")


async def follow(app: Service) -> None:
    """Follow ``models/current`` until cancelled."""
    seconds = app.state.settings.poll_seconds
    refused: object = None
    while True:
        await asyncio.sleep(seconds)
        wanted = _pointer(app)
        serving = app.state.loaded.bundle
        if wanted and (serving is None or serving.digest != wanted):
            mark = (wanted, _signed_at(app, wanted))
            if mark != refused:
                refused = None if await swap(app) else mark


async def swap(app: Service) -> bool:
    """Load what the settings name now; whether it serves afterwards."""
    found = await asyncio.to_thread(predictor.load, app.state.settings)
    before: predictor.Loaded = app.state.loaded
    if found.bundle is None:
        logs.event(_LOG, "swap_refused", level=logging.ERROR, reason=found.reason)
        app.state.telemetry.swaps.labels("refused").inc()
        if before.bundle is None:
            app.serve(found)
        return False
    app.serve(found)
    app.state.telemetry.swaps.labels("switched").inc()
    logs.event(
        _LOG,
        "swapped",
        before=before.bundle.version if before.bundle else None,
        **predictor.facts(found.bundle),
    )
    return True


def _signed_at(app: Service, digest: str) -> int:
    """When a bundle's signature was written, so that one refused without is looked at again."""
    models_dir: Path = app.state.settings.models_dir
    try:
        path = models_dir / bundles.BUNDLES / digest / store.SIGNATURE
        return path.stat().st_mtime_ns
    except (OSError, ValueError):
        return 0


def _pointer(app: Service) -> str:
    try:
        path: Path = app.state.settings.models_dir / bundles.CURRENT
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""  # gone or damaged: the model that serves stays
