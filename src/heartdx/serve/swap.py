"""Change of the model while serving: verified first, switched between two requests.

``models/current`` is read every few seconds. A new bundle is loaded, verified and tried on its
golden records in a thread while the old one answers; then one assignment makes it the model of
the next request. A bundle that is refused changes nothing: the old one stays. Whatever happens
on the way is logged, and the next look comes all the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from heartdx import bundle as bundles
from heartdx import logs
from heartdx.errors import BundleError, NoModelError, UsageError
from heartdx.serve import predictor
from heartdx.settings import Settings

if TYPE_CHECKING:
    from heartdx.serve.front import Service

REFUSED_SECONDS = 60.0
"""A refused bundle is tried again when one of its files changes, and after this time: a full disk
or too many open files refuse one that is whole."""

_LOADS = 3
"""Most loads for one swap when ``current`` moves on meanwhile; the next look goes on from there."""
_LOG = logs.get("serve")


@dataclass(frozen=True)
class Wanted:
    """What ``models/current`` names.

    Parameters
    ----------
    digest : of the bundle; empty when ``current`` cannot be read as one.
    files : name, time and size of each file that decides whether the bundle verifies.
    """

    digest: str
    files: tuple[tuple[str, int, int], ...] = ()


async def follow(app: Service) -> None:
    """Follow ``models/current`` until cancelled, whatever happens meanwhile."""
    settings: Settings = app.state.settings
    refused, again = None, 0.0
    while True:
        await asyncio.sleep(settings.poll_seconds)
        try:
            wanted = await asyncio.to_thread(_wanted, settings, _served(app))
            if wanted is None or (wanted == refused and time.monotonic() < again):
                continue
            refused, again = wanted, time.monotonic() + REFUSED_SECONDS
            if await swap(app):
                refused = None
        except Exception as bug:  # noqa: BLE001 - the old model answers, and the next look comes
            logs.event(
                _LOG,
                "swap_failed",
                level=logging.ERROR,
                error=type(bug).__name__,
                where=logs.places(bug),
            )


async def swap(app: Service) -> bool:
    """Load what the settings name now; whether it serves afterwards.

    One at a time: a slow load never comes after a newer one.
    """
    async with app.state.swapping:
        found = await asyncio.to_thread(_newest, app.state.settings)
        before: predictor.Loaded = app.state.loaded
        if found.bundle is None:
            logs.event(_LOG, "swap_refused", level=logging.ERROR, reason=found.reason)
            app.state.telemetry.swaps.labels("refused").inc()
            if before.bundle is None:
                app.serve(found)
            return False
        app.serve(found)
        facts = predictor.facts(found.bundle)
        if before.bundle is not None and before.bundle.digest == found.bundle.digest:
            logs.event(_LOG, "reloaded", **facts)
            return True
        app.state.telemetry.swaps.labels("switched").inc()
        version = before.bundle.version if before.bundle else None
        logs.event(_LOG, "swapped", before=version, **facts)
        return True


def _newest(settings: Settings) -> predictor.Loaded:
    """What the settings name once it is loaded; a bundle that is current no more is left."""
    for _ in range(_LOADS):
        before = _wanted(settings)
        found = _loaded(settings)
        if settings.model_path is not None or _wanted(settings) == before:
            break
    return found


def _loaded(settings: Settings) -> predictor.Loaded:
    try:
        return predictor.load(settings)
    except UsageError as refusal:  # stops a start; a service that runs keeps its model
        return predictor.Loaded(None, str(refusal))


def _served(app: Service) -> str | None:
    bundle = app.state.loaded.bundle
    return None if bundle is None else bundle.digest


def _wanted(settings: Settings, served: str | None = None) -> Wanted | None:
    """What ``current`` names; None for nothing, or for what is ``served`` already."""
    try:
        folder = bundles.current_folder(settings.models_dir)
    except NoModelError:
        return None  # the model that serves stays
    except BundleError:
        return Wanted("", _seen([settings.models_dir / bundles.CURRENT]))
    if folder.name == served:
        return None
    key = [] if settings.public_key is None else [settings.public_key]
    return Wanted(folder.name, _seen([*_files(folder), *key]))


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(folder.rglob("*"))
    except OSError:
        return []


def _seen(paths: list[Path]) -> tuple[tuple[str, int, int], ...]:
    found = []
    for path in paths:
        try:
            facts = path.stat()
        except OSError:
            continue
        found.append((str(path), facts.st_mtime_ns, facts.st_size))
    return tuple(found)
