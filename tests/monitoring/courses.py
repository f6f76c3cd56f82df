"""The course of all incidents: quiet, incident, alert, mend, all-clear, side by side."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from incidents import HEALTHY, INCIDENTS, Incident, every_door, many, one_model, single
from staging import JOBS, Alertmanager, Prometheus, Service, Watch, Webhook, asking, until

QUIET = 28.0
"""Seconds of ordinary traffic before an incident: more than what 6h becomes."""
PATIENCE = 60.0
"""Seconds within which an alert must fire, be told, and be resolved."""


@dataclass
class Course:
    """What happened in an incident: moments in seconds of the monotonic clock."""

    incident: Incident
    services: list[Service]
    before: frozenset[str] = frozenset()
    acted: float = 0.0
    mended: float = 0.0
    failed: str = ""

    @property
    def job(self) -> str:
        return JOBS + self.incident.name

    @property
    def must_be_told(self) -> frozenset[str]:
        return self.incident.alerts if self.incident.told is None else self.incident.told


@dataclass
class Stage:
    """What watched the incidents, and how each went."""

    prometheus: Prometheus
    watch: Watch
    webhook: Webhook
    courses: dict[str, Course]

    def fired(self, job: str) -> dict[str, float]:
        """When each alert of a job was first seen firing."""
        seen = dict(self.watch.fired.first)
        return {alert: when for (of, alert), when in seen.items() if of == job}

    def firing(self, job: str) -> frozenset[str]:
        return frozenset(alert for of, alert in self.watch.fired.now if of == job)

    def told(self, job: str, status: str = "firing", *, since: float = 0.0) -> dict[str, float]:
        """When the webhook first heard of each alert of a job."""
        first: dict[str, float] = {}
        for told in list(self.webhook.told):
            if (told.labels.get("job"), told.status) == (job, status) and told.when >= since:
                first.setdefault(told.labels["alertname"], told.when)
        return first


def happen(stage: Stage, course: Course) -> None:
    """Quiet, incident, alert, mend, all-clear."""
    incident, job, services = course.incident, course.job, course.services

    def usual() -> contextlib.AbstractContextManager[None]:
        ask = incident.usual
        return contextlib.nullcontext() if ask is None else asking(ask(services[0]), each=0.2)

    if incident.usual is not None:
        with usual():
            time.sleep(QUIET)
    course.before = frozenset(stage.fired(job)) if incident.usual else frozenset()
    with usual() if incident.beside else contextlib.nullcontext():
        course.acted = time.monotonic()
        with incident.act(services):
            until(
                lambda: (
                    incident.alerts <= stage.fired(job).keys()
                    and course.must_be_told <= stage.told(job).keys()
                ),
                seconds=PATIENCE,
                what=f"{job}: {sorted(incident.alerts)} fired and told",
            )
        if incident.told is not None:  # what was held back must be over before it is mended
            until(
                lambda: stage.firing(job) <= incident.told,
                seconds=PATIENCE,
                what=f"{job}: only {sorted(incident.told)} fires",
            )
        course.mended = time.monotonic()
        if incident.mend is None:
            return
        incident.mend(services)
        until(
            lambda: course.must_be_told <= stage.told(job, "resolved", since=course.mended).keys(),
            seconds=PATIENCE,
            what=f"{job}: {sorted(course.must_be_told)} resolved",
        )


def prepared(incident: Incident, folder: Path) -> list[Service]:
    services = []
    for number in range(incident.instances):
        place = folder / f"{incident.name}-{number}"
        (place / "models").mkdir(parents=True)
        incident.prepare(place / "models")
        services.append(Service(place, **incident.settings(place / "models")))
    return services


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Stage]:
    """All incidents, each in its course at the same time, and a healthy service beside them."""
    courses = {i.name: Course(i, prepared(i, folder)) for i in INCIDENTS}
    (folder / HEALTHY / "models").mkdir(parents=True)
    one_model(folder / HEALTHY / "models")
    healthy = Service(folder / HEALTHY)
    services = [healthy, *(s for course in courses.values() for s in course.services)]
    jobs = {c.job: [s.port for s in c.services] for c in courses.values()}
    with contextlib.ExitStack() as running:

        def run(thing):
            running.callback(thing.end)
            return thing

        for service in services:
            service.start()
            run(service)
        for service in services:
            service.wait()
        webhook = run(Webhook())
        alertmanager = run(Alertmanager(folder / "alertmanager", webhook))
        prometheus = run(
            Prometheus(
                folder / "prometheus", {**jobs, JOBS + HEALTHY: [healthy.port]}, alertmanager.port
            )
        )
        stage = Stage(prometheus, run(Watch(prometheus)), webhook, courses)
        for ask in (single(healthy), many(healthy), every_door(healthy)):
            running.enter_context(asking(ask, each=0.5))

        def play(course: Course) -> None:
            try:
                happen(stage, course)
            except Exception:  # noqa: BLE001 - told by the test of this incident
                course.failed = traceback.format_exc()

        with ThreadPoolExecutor(len(courses)) as at_once:
            list(at_once.map(play, courses.values()))
        yield stage
