"""A challenger beside the champion: it scores the same patients later, and only metrics tell.

Answered patients wait in a bounded queue; a background task scores them in slices in a thread.
When the challenger is too slow, patients are dropped and counted; when it fails, that is
counted; neither is ever seen by a client.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence

import numpy as np

from heartdx import logs
from heartdx.bundle import Bundle
from heartdx.serve.predictor import Answers
from heartdx.serve.telemetry import Telemetry

Asked = tuple["Sequence[float | None]", float, bool]
"""A patient's 13 values, the champion's probability and whether it reached its threshold."""

_LOG = logs.get("serve")
_QUEUE = 10_000
"""Most patients that wait; beyond it the oldest are dropped."""
_SLICE = 1_000
_PAUSE = 0.25


class Shadow:
    """See the module's docstring.

    Parameters
    ----------
    challenger : a verified bundle.
    telemetry : where agreement is counted.
    """

    def __init__(self, challenger: Bundle, telemetry: Telemetry):
        self.challenger = challenger
        self._telemetry = telemetry
        self._waiting: deque[Asked] = deque()
        self._failed = False

    def offer(self, values: Sequence[float | None], probability: float, positive: bool) -> None:
        """Leave one answered patient with the champion's answer."""
        if len(self._waiting) >= _QUEUE:
            self._waiting.popleft()
            self._telemetry.count_shadow("dropped", np.empty(1))
        self._waiting.append((values, probability, positive))

    def offer_table(self, answers: Answers) -> None:
        """Leave the patients of a table, as many as may wait."""
        kept = slice(0, _QUEUE)
        rows = answers.X[kept].tolist(), answers.probabilities[kept], answers.positive[kept]
        for values, probability, positive in zip(*rows, strict=True):
            self.offer(values, probability, bool(positive))
        if left := max(0, len(answers.X) - _QUEUE):
            self._telemetry.count_shadow("dropped", np.empty(left))

    async def run(self) -> None:
        """Score what waits until cancelled."""
        while True:
            await asyncio.sleep(_PAUSE)
            while self._waiting:
                await self._score_slice()

    async def _score_slice(self) -> None:
        taken = [self._waiting.popleft() for _ in range(min(_SLICE, len(self._waiting)))]
        try:
            probability = await asyncio.to_thread(self._scored, [row for row, _, _ in taken])
            self._compare(taken, probability)
        except Exception as bug:  # noqa: BLE001 - whatever the challenger does, the champion answers
            self._telemetry.count_shadow("failed", np.empty(len(taken)))
            if not self._failed:
                self._failed = True
                logs.event(
                    _LOG,
                    "shadow_failed",
                    level=logging.WARNING,
                    error=type(bug).__name__,
                    where=logs.places(bug),
                    digest=self.challenger.digest,
                )

    def _compare(self, taken: list[Asked], probability: np.ndarray) -> None:
        champion = np.array([probability for _, probability, _ in taken])
        positive = np.array([label for _, _, label in taken])
        same = (probability >= self.challenger.threshold) == positive
        distance = np.abs(probability - champion)
        self._telemetry.count_shadow("same_label", distance[same])
        self._telemetry.count_shadow("other_label", distance[~same])

    def _scored(self, rows: list[Sequence[float | None]]) -> np.ndarray:
        return self.challenger.score(np.array(rows, dtype=np.float64)).probability
