"""Show what ran: the newest runs below runs/, and the last verdict of every host and its age.

Reads only, and nothing but run directories: for what hosts are now, gpufleet verify asks them.
With RUN: that run alone. Exit codes: 0 it was shown, 2 wrong input.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import PurePath

from deploy.fleet import exits
from deploy.fleet.errors import Fault, WrongInput
from deploy.fleet.names import fold
from deploy.fleet.runs import RUNS, RunFile, printable
from verify.report.age import ago, ending
from verify.report.read import MOST_RUNS, Recorded, find, recorded
from verify.report.screen import Line, write
from verify.report.telling import STYLE, cut
from verify.report.view import WORST_FIRST, many, tally

MOST_SHOWN = 10
MOST_ROWS = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", metavar="RUN", help="id or directory of a run")


def run(arguments: argparse.Namespace) -> int:
    every = [find(arguments.run)] if arguments.run is not None else list(recorded())
    if not every:
        why = "holds no run: gpufleet plan, apply and verify work in the current folder"
        raise WrongInput([Fault(f"{RUNS}/", "", why)])
    write(lambda width: render(every, width), sys.stdout)
    return exits.OK


def render(every: list[Recorded], width: int) -> Iterator[Line]:
    """Runs, the newest first; then hosts by their last verdict."""
    good = [one for one in every if one.run is not None]
    yield "bold", f"{many(len(good), 'run')}, the newest first"
    for one in good[:MOST_SHOWN]:
        yield from _run(one, width)
    if len(good) > MOST_SHOWN:
        over = "+" * (len(every) >= MOST_RUNS)
        yield "dim", f"and {len(good) - MOST_SHOWN}{over} older ones"
    for one in islice((one for one in every if one.run is None), 5):
        yield "yellow", cut(f"{printable(str(one.place))}: is no run: {one.fault}", width)
    rows = list(_verdicts(good))
    if rows:
        yield "", ""
        yield "bold", "last verdict of every host"
        yield from rows[:MOST_ROWS]
        if len(rows) > MOST_ROWS:
            yield "dim", f"and {many(len(rows) - MOST_ROWS, 'more row')}"
    elif len(good) > 1:
        yield "", ""
        yield "", "no host was verified yet: gpufleet verify INVENTORY"


def _run(one: Recorded, width: int) -> Iterator[Line]:
    run = one.run
    assert run is not None
    count = tally(run.hosts.values())
    hosts = ", ".join(f"{number} {status}" for status, number in count.items()) or "no hosts"
    end = ending(run)
    style = {"exit 0": "green", "exit 1": "red"}.get(end, "yellow")
    yield style, cut(printable(f"{run.id}  {ago(run.started)} ago  {end}: {hosts}"), width)
    yield "dim", cut(printable(f"  {' '.join(run.command)}  by {run.controller}"), width)


def _verdicts(runs: Iterable[Recorded]) -> Iterator[Line]:
    """Hosts with one verdict of one run on one row; a pending host's verdict is an older one."""
    seen: set[tuple[str, str]] = set()
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    facts: dict[str, RunFile] = {}
    for one in runs:
        if one.run is None or not one.verifies:
            continue
        facts[one.run.id] = one.run
        for host, status in one.run.hosts.items():
            key = (one.run.inventory, host)
            if status in WORST_FIRST and key not in seen:
                seen.add(key)
                alike[status, one.run.id].append(host)
    order = [str(verdict) for verdict in WORST_FIRST]
    several = len({inventory for inventory, _ in seen}) > 1
    for (status, id), hosts in sorted(
        alike.items(), key=lambda row: (order.index(row[0][0]), -len(row[1]))
    ):
        run = facts[id]
        fleet = f"{PurePath(run.inventory).stem}: " if several else ""
        count = f" ({len(hosts)})" if len(hosts) > 1 else ""
        name = cut(f"{fleet}{fold(hosts)}", 34 - len(count)) + count
        text = f"{status:<11}  {name:<34}  {ago(run.started)} ago, {id}"
        yield STYLE[status], printable(text)
