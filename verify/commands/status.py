"""Show what ran: the newest runs below runs/, and the last verdict of every host and its age.

Reads nothing but run directories: for what hosts are now, gpufleet verify asks them. With RUN: that
run alone; where its level deep still runs on hosts, they are asked, and what has ended is collected
and judged. --inventory collects what another controller has started. Exit codes: 0 it was shown,
2 wrong input; of what is collected those of verify: 4 while something still runs.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import PurePath
from time import sleep

from deploy.fleet import exits
from deploy.fleet.errors import Fault, WrongInput
from deploy.fleet.inventory import Fleet, read_inventory
from deploy.fleet.names import fold
from deploy.fleet.runs import RUNS, RunFile, again, begin, printable
from verify.bundle import bundle
from verify.commands import verify
from verify.commands.deep import asked_again, end, found_there
from verify.deep import Attended, read_open
from verify.report.age import LIVES, ago, ending
from verify.report.catalogue import catalogue
from verify.report.read import MOST_RUNS, Recorded, find, look, recorded
from verify.report.screen import Line, write
from verify.report.telling import STYLE, cut
from verify.report.view import WORST_FIRST, many, tally

MOST_SHOWN = 10
STOPPED_S = 8.0
"""For soaks to end once they were told to."""
MOST_ROWS = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", metavar="RUN", help="id or directory of a run")
    parser.add_argument(
        "--stop", action="store_true", help="end the soaks of RUN; what they have done is collected"
    )
    parser.add_argument(
        "--inventory", metavar="FILE", help="ask its hosts for soaks that others have started"
    )
    parser.add_argument("--limit", help="hosts of --inventory, as verify takes them")


def run(arguments: argparse.Namespace) -> int:
    faults = _faults(arguments)
    if faults:
        raise WrongInput(faults)
    if arguments.inventory is not None:
        return _of_others(arguments)
    if arguments.run is not None:
        found = find(arguments.run)
        if found.run is not None and read_open(found.place) is not None:
            if ending(found.run) != LIVES:
                return _collect(found, arguments.stop)
            print(
                f"{found.run.id} is still waited for by process {found.run.pid} here: it collects"
            )
        elif arguments.stop:
            raise WrongInput([Fault("status", "--stop", f"nothing of {found.place.name} runs")])
    every = [find(arguments.run)] if arguments.run is not None else list(recorded())
    if not every:
        why = "holds no run: gpufleet plan, apply and verify work in the current folder"
        raise WrongInput([Fault(f"{RUNS}/", "", why)])
    write(lambda width: render(every, width), sys.stdout)
    return exits.OK


def _faults(arguments: argparse.Namespace) -> list[Fault]:
    found = []
    if arguments.run is not None and arguments.inventory is not None:
        found.append(Fault("status", "RUN and --inventory", "exclude each other: give one"))
    if arguments.stop and arguments.run is None and arguments.inventory is None:
        found.append(Fault("status", "--stop", "needs RUN or --inventory"))
    if arguments.limit is not None and arguments.inventory is None:
        found.append(Fault("status", "--limit", "is for --inventory alone"))
    return found


def _collect(found: Recorded, stop: bool) -> int:
    """Ask the hosts of an open run, judge what has ended; the exit code of verify."""
    assert found.run is not None
    words = asked_again(found)
    fleet = read_inventory(words.inventory)
    if stop:
        _stop(found, fleet)
        sleep(STOPPED_S)
    return verify.run(words, again(found.place, fleet))


def _stop(found: Recorded, fleet: Fleet) -> None:
    """Ask the soaks of an open run to end."""
    opened = read_open(found.place)
    if opened is not None:
        print("\n".join(end(fleet, Attended(found.place, bundle(), opened))), file=sys.stderr)


def _of_others(arguments: argparse.Namespace) -> int:
    """Collect what hosts have, whoever started it, into runs of this folder."""
    whole = read_inventory(arguments.inventory)
    fleet = whole.limit(arguments.limit) if arguments.limit is not None else whole
    known = frozenset(id for id, one in catalogue().items() if one.where == "host")
    codes = []
    for opened in found_there(fleet, bundle(), known):
        words = [arguments.inventory, "--level", "deep", "--limit", ",".join(sorted(opened.hosts))]
        part = fleet.limit(",".join(opened.hosts))
        record = begin("verify", [*words, "--minutes", str(max(1, opened.minutes))], whole, part)
        Attended(record.directory, bundle(), opened).keep()
        record.end(None, "interrupted")
        codes.append(_collect(look(record.directory), arguments.stop))
    return exits.FAILED if exits.FAILED in codes else max(codes, default=exits.NOT_LOOKED_AT)


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
    waits = read_open(one.place)
    if waits is not None:
        text = f"  level deep not collected from {fold(waits.hosts)}: gpufleet status {run.id}"
        yield "yellow", cut(printable(text), width)
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
