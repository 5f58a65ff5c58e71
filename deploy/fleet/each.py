"""The same work on many hosts at once, each with a deadline of its own."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import gevent
from gevent.pool import Pool
from gevent.queue import Queue

from deploy.fleet.inventory import Host

T = TypeVar("T")


def on_each(
    hosts: Iterable[Host], work: Callable[[Host], T], *, deadline_s: float, at_once: int = 256
) -> Iterator[tuple[str, T | Exception]]:
    """Run `work` for every host in a greenlet of its own; yield (name, result) as they finish.

    An exception is that host's result, and so is TimeoutError when `deadline_s` has passed since
    its own start; nobody else waits for it. Leaving the iterator ends what still runs.
    """
    everyone = list(hosts)
    pool, done = Pool(at_once), Queue()

    def one(host: Host) -> None:
        late = TimeoutError(f"{host.name}: no result within {deadline_s:g} s")
        try:
            with gevent.Timeout(deadline_s, late):
                result: T | Exception = work(host)
        except Exception as error:
            result = error
        done.put((host.name, result))

    def start() -> None:
        for host in everyone:
            pool.spawn(one, host)

    starter = gevent.spawn(start)
    try:
        for _ in everyone:
            yield done.get()
    finally:
        starter.kill(block=False)
        pool.kill(block=False)
