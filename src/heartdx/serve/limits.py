"""How much one client may ask, and how long one may keep the service waiting."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any

from heartdx.serve.problems import RequestError

MOST_CLIENTS = 10_000


class Buckets:
    """A token bucket for each client.

    A client holds up to ``burst`` tokens and gets ``rate`` new ones a second; a request takes
    one. Of more than ``most`` clients the one that was silent longest is forgotten: it finds a
    full bucket when it comes back, so the table stays small and nobody loses by it.

    Parameters
    ----------
    rate : tokens per second.
    burst : most tokens held.
    most : most clients remembered.

    References
    ----------
    .. [1] Turner J. New directions in communications (or which way to the information age?).
       IEEE Communications Magazine 1986;24(10):8-15 (the leaky bucket as a meter).

    Examples
    --------
    >>> buckets = Buckets(rate=2, burst=1)
    >>> buckets.wait("ward", now=0.0), buckets.wait("ward", now=0.0), buckets.wait("ward", now=0.5)
    (0.0, 0.5, 0.0)
    """

    def __init__(self, *, rate: float, burst: float, most: int = MOST_CLIENTS):
        self.rate = rate
        self.burst = burst
        self.most = most
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def wait(self, client: str, now: float) -> float:
        """0.0 when the client may ask (a token is taken), else the seconds until it may."""
        tokens, since = self._held.get(client, (self.burst, now))
        tokens = min(self.burst, tokens + (now - since) * self.rate)
        lacking = max(0.0, 1.0 - tokens)
        self._held[client] = (tokens if lacking else tokens - 1.0, now)
        self._held.move_to_end(client)
        if len(self._held) > self.most:
            self._held.popitem(last=False)
        return lacking / self.rate


def peer(address: str) -> str:
    """What stands for one client among addresses: the address, or an IPv6 /64 network.

    A household or a server is given a whole /64 network; counted by address it would have 2**64
    buckets.

    Examples
    --------
    >>> peer("192.0.2.7"), peer("::ffff:192.0.2.7"), peer("2001:db8::1") == peer("2001:db8::2")
    ('192.0.2.7', '192.0.2.7', True)
    """
    if ":" not in address:
        return address
    try:
        number = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    if number.ipv4_mapped is not None:
        return str(number.ipv4_mapped)
    return f"{number.packed[:8].hex()}/64"


@dataclass(slots=True)
class _Wait:
    """One request that waits for its client.

    Parameters
    ----------
    until : when it has waited long enough, in seconds of ``time.monotonic``.
    refused : why it was ended, empty while it waits.
    """

    until: float
    refused: str = ""


class _Begun:
    """An awaitable after its first step, for the rest of its steps.

    Parameters
    ----------
    first : what it waits for.
    steps : the rest.
    """

    def __init__(self, first: object, steps: Generator[Any, Any, Any]):
        self.first = first
        self.steps = steps

    def __await__(self) -> Generator[Any, Any, Any]:
        try:
            yield self.first
        except BaseException as error:
            self.steps.throw(error)
            raise
        return (yield from self.steps)


class Patience:
    """The requests that wait for their clients: for a body's next part, or to take an answer.

    What is there at once costs next to nothing, and a wait no timer: ``end_late`` is called now
    and then and ends what has waited too long. Of more than ``most`` waits the oldest ends, so
    that clients who never finish cannot keep out those who do.

    Parameters
    ----------
    most : most requests waited for.
    """

    def __init__(self, *, most: int):
        self.most = most
        self._waits: OrderedDict[asyncio.Task[Any], _Wait] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waits)

    async def on[T](self, client: Callable[[], Awaitable[T]], *, until: float) -> T:
        """What the client gives, awaited by the current task.

        Parameters
        ----------
        client : gives it.
        until : seconds of ``time.monotonic``.

        Raises
        ------
        RequestError
            ``request-timeout``: nothing came until ``until``, or others needed the place.
        """
        steps = client().__await__()
        try:
            first = next(steps)
        except StopIteration as done:  # it was there: most requests come whole
            given: T = done.value
            return given
        rest: T = await self.begun(first, steps, until=until)
        return rest

    async def begun(self, first: object, steps: Generator[Any, Any, Any], *, until: float) -> Any:
        """The same for an awaitable whose first step is done and was not its last.

        Parameters
        ----------
        first : what it waits for.
        steps : the rest of its steps.
        until : seconds of ``time.monotonic``.

        Raises
        ------
        RequestError
            As :meth:`on`.
        """
        task = asyncio.current_task()
        assert task is not None
        if len(self._waits) >= self.most:
            oldest = next(iter(self._waits))
            self._end(oldest, "the service waits for too many requests at once")
        wait = self._waits[task] = _Wait(until)
        try:
            return await _Begun(first, steps)
        except asyncio.CancelledError:
            if wait.refused and not task.uncancel():
                raise RequestError(
                    "request-timeout",
                    f"{wait.refused}; send the whole request at once",
                    {"Connection": "close"},
                ) from None
            raise
        finally:
            self._waits.pop(task, None)

    def end_late(self, now: float) -> None:
        """End every wait whose time is over."""
        for task, wait in list(self._waits.items()):
            if wait.until <= now:
                self._end(task, "the request did not come whole in time")

    def _end(self, task: asyncio.Task[Any], why: str) -> None:
        self._waits.pop(task).refused = why
        task.cancel()
