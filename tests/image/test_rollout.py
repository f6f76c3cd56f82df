"""A rolling update as the manifest declares it, of real containers, every request counted.

There is no cluster here: this file plays the Deployment's controller (`maxSurge` and
`maxUnavailable`), the kubelet (hooks, grace) and the load balancer. That one is the slowest to
notice an end that there can be: it knows of a pod only what the readiness probe tells, at the
manifest's period and threshold. A Service hears of a terminating pod at once besides.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2
from image_kit import BOX, DOCUMENTS, GRACE, Container, docker, started

REPLICAS = DOCUMENTS["Deployment"]["spec"]["replicas"]
ROLLING = DOCUMENTS["Deployment"]["spec"]["strategy"]["rollingUpdate"]
READY = BOX["readinessProbe"]
HOOKS = {name: hook["exec"]["command"] for name, hook in BOX["lifecycle"].items()}
CLIENTS = 4
PAUSE = 0.02
"""Seconds between two requests of a client."""
PATIENT = {"age": 58, "sex": "male", "cp": "asymptomatic", "thalach": 118, "exang": 1}


@dataclass
class Balancer:
    """Endpoints of a Service, as far as the readiness probe has told so far."""

    pods: list[Container] = field(default_factory=list)
    endpoints: list[Container] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def follow(self, pod: Container) -> None:
        """Probe one pod until it is gone, as its kubelet does."""
        refusals = 0
        while pod in self.pods and not self.stopped.is_set():
            refusals = 0 if self._ready(pod) else refusals + 1
            if refusals == 0 and pod not in self.endpoints:
                self.endpoints = [*self.endpoints, pod]
            if refusals >= READY["failureThreshold"]:
                self.endpoints = [known for known in self.endpoints if known is not pod]
            self.stopped.wait(READY["periodSeconds"])
        self.endpoints = [known for known in self.endpoints if known is not pod]

    def ask(self) -> str:
        """One request on a connection of its own: its status, or what broke it."""
        pod = random.choice(self.endpoints)
        try:
            return str(httpx2.post(pod.url + "/predict", json=PATIENT, timeout=10).status_code)
        except httpx2.TransportError as broken:
            return type(broken).__name__

    @staticmethod
    def _ready(pod: Container) -> bool:
        try:
            answer = httpx2.get(pod.url + READY["httpGet"]["path"], timeout=READY["timeoutSeconds"])
        except httpx2.TransportError:
            return False
        return answer.status_code == 200


@contextmanager
def service(image: str) -> Iterator[tuple[Balancer, ThreadPoolExecutor]]:
    """The manifest's number of pods behind a balancer."""
    balancer = Balancer()
    with ThreadPoolExecutor(16) as threads:
        try:
            for _ in range(REPLICAS):
                add(balancer, image, threads)
            yield balancer, threads
        finally:
            balancer.stopped.set()
            for pod in balancer.pods:
                docker("rm", "--force", pod.name)


def add(balancer: Balancer, image: str, threads: ThreadPoolExecutor) -> Container:
    """A new pod that is an endpoint when this returns."""
    pod = started(image)
    balancer.pods.append(pod)
    assert pod.execute(*HOOKS["postStart"]).returncode == 0
    threads.submit(balancer.follow, pod)
    deadline = time.monotonic() + 60
    while pod not in balancer.endpoints:
        assert time.monotonic() < deadline, "the new pod was never ready"
        time.sleep(0.05)
    return pod


def end(balancer: Balancer, pod: Container, *, hook: bool) -> None:
    """The kubelet's way to end a pod: its hook, SIGTERM, and SIGKILL when its grace is over."""
    begun = time.monotonic()
    if hook:
        assert pod.execute(*HOOKS["preStop"]).returncode == 0
    left = GRACE - (time.monotonic() - begun)
    docker("stop", "--time", str(round(left)), pod.name)
    code = pod.facts()["State"]["ExitCode"]
    # Gone for its kubelet, whatever the balancer has heard.
    threshold = READY["periodSeconds"] * (READY["failureThreshold"] + 1)
    time.sleep(threshold)
    balancer.pods.remove(pod)
    docker("rm", pod.name)
    assert code == 0


def rolled_out(image: str, *, hook: bool) -> Counter[str]:
    """Answers of all clients while every pod is replaced by a new one."""
    answers: Counter[str] = Counter()
    counting = threading.Lock()

    with service(image) as (balancer, threads):

        def client() -> None:
            while not balancer.stopped.is_set():
                told = balancer.ask()
                with counting:
                    answers[told] += 1
                time.sleep(PAUSE)

        clients = [threads.submit(client) for _ in range(CLIENTS)]
        old = list(balancer.pods)
        assert (ROLLING["maxSurge"], ROLLING["maxUnavailable"]) == (1, 0)
        for pod in old:
            add(balancer, image, threads)
            end(balancer, pod, hook=hook)
        assert len(balancer.pods) == REPLICAS
        assert not {pod.name for pod in old} & {pod.name for pod in balancer.pods}
        balancer.stopped.set()
        for running in clients:
            running.result(timeout=30)
    return answers


def shown(answers: Counter[str]) -> str:
    told = sorted(itertools.starmap("{} {}".format, answers.items()))
    return f"{answers.total()} requests: {', '.join(told)}"


def test_a_rolling_update_by_the_manifest_loses_no_request(image, capsys):
    answers = rolled_out(image, hook=True)

    with capsys.disabled():
        print(f"\nrolling update by the manifest: {shown(answers)}")
    assert answers.total() > 500
    assert set(answers) == {"200"}


def test_the_same_update_without_the_pause_before_the_end_loses_requests(image, capsys):
    answers = rolled_out(image, hook=False)

    with capsys.disabled():
        print(f"\nrolling update without preStop: {shown(answers)}")
    assert set(answers) > {"200"}
