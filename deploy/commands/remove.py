"""Take gpufleet's files off hosts; vendor packages and the driver stay as they are.

Removes environments and tools below the prefix, /etc/gpufleet, /var/lib/gpufleet and the
configuration files with gpufleet in their names. A host where an environment is in use is left
alone.
"""

import argparse
import sys
from dataclasses import dataclass
from typing import TextIO

from deploy.commands.apply import yes
from deploy.engine.outcome import Outcome, exit_code, show
from deploy.facts import NodeFacts
from deploy.fleet import exits
from deploy.fleet.errors import Fault, WrongInput
from deploy.fleet.hostlock import Locked, LockTrouble, Owner, host_lock
from deploy.fleet.inventory import Fleet, Host, read_inventory
from deploy.fleet.names import fold
from deploy.fleet.places import places
from deploy.fleet.runs import Run, begin, controller, now, printable
from deploy.fleet.transport import Unreachable, connect, on_each
from deploy.fleet.waiting import Waiting
from deploy.removal import LOOK_S, REMOVE_S, RemovalFailed, called, look, remove
from deploy.survey import BadProbe, probe

STAYS = "vendor packages, the driver and /usr/local/cuda stay as they are"


@dataclass(frozen=True)
class Found:
    """What is on one host."""

    paths: list[str]
    in_use: list[str]
    """Environments that processes run from."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inventory", help="pyinfra inventory file")
    parser.add_argument("--limit", help="hosts, node sets, groups or globs, comma-separated")
    parser.add_argument("--yes", action="store_true", help="remove without asking")


def run(arguments: argparse.Namespace) -> int:
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if not terminal and not arguments.yes:
        raise WrongInput([Fault("remove", "--yes", "needs --yes when there is no terminal to ask")])
    fleet = read_inventory(arguments.inventory)
    wave = fleet.limit(arguments.limit) if arguments.limit is not None else fleet
    words = [arguments.inventory, *(["--limit", arguments.limit] if arguments.limit else [])]
    record = begin("remove", words, fleet, wave)
    code = None
    try:
        outcomes, found = examine(wave)
        preview(wave, found, outcomes, sys.stdout)
        if found and not arguments.yes and not yes(f"Remove from {fold(found)}?", sys.stdout):
            print("nothing was removed")
            code = exits.NOT_LOOKED_AT
            return code
        outcomes |= clear(wave, found, record)
        for outcome in outcomes.values():
            record.result(outcome.host, outcome.status, message=outcome.message)
        code = exit_code(outcomes)
        show(outcomes, f"gpufleet remove {arguments.inventory}", record, STAYS, sys.stdout)
        return code
    finally:
        record.end(code, "interrupted" if code is None else "finished")


def examine(wave: Fleet) -> tuple[dict[str, Outcome], dict[str, Found]]:
    """Outcomes of hosts that are done or cannot be done, and what is on the others."""
    outcomes: dict[str, Outcome] = {}
    found: dict[str, Found] = {}
    with Waiting("looking", wave.hosts, sys.stderr) as waiting:
        results = on_each(wave.hosts.values(), _examine, deadline_s=LOOK_S + 60)
        for name, result in results:
            waiting.ended(name)
            if isinstance(result, Exception):
                outcomes[name] = _broken(name, result)
            elif not result.paths:
                outcomes[name] = Outcome(host=name, status="unchanged", message="")
            elif result.in_use:
                message = f"in use: {', '.join(result.in_use)}; remove again when it is free"
                outcomes[name] = Outcome(host=name, status="busy", message=message)
            else:
                found[name] = result
    return outcomes, found


def preview(
    wave: Fleet, found: dict[str, Found], outcomes: dict[str, Outcome], say: TextIO
) -> None:
    """Exactly what would go, hosts with the same files together."""
    print(f"{wave.name}: {len(found)} of {len(wave.hosts)} hosts have files of ours", file=say)
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, one in found.items():
        alike.setdefault(tuple(one.paths), []).append(name)
    for paths, names in alike.items():
        print(f"  {fold(names)}", file=say)
        for path in paths:
            print(f"    {called(path)}", file=say)
    print(f"  {STAYS}", file=say)


def clear(wave: Fleet, found: dict[str, Found], record: Run) -> dict[str, Outcome]:
    """Remove from every host at once, and look again."""
    outcomes: dict[str, Outcome] = {}

    def one(host: Host) -> Outcome:
        return _clear(host, found[host.name].paths, record)

    hosts = [wave.hosts[name] for name in found]
    for name, result in on_each(hosts, one, deadline_s=REMOVE_S + 300):
        outcome = _broken(name, result) if isinstance(result, Exception) else result
        outcomes[name] = outcome
        print(f"{name}: {outcome.message or outcome.status}")
    return outcomes


def _examine(host: Host) -> Found:
    connection = connect(host)
    try:
        paths = look(connection, host.spec)
        return Found(paths, _in_use(probe(connection, host.spec), paths, host.spec.prefix))
    finally:
        connection.close()


def _in_use(facts: NodeFacts, paths: list[str], prefix: str) -> list[str]:
    if f"{prefix}/envs" not in paths:
        return []
    if facts.environments is None:
        why = facts.unknown.get("environments", "no reason given")
        return [f"unknown whether an environment is ({why})"]
    return [f"{prefix}/envs/{one.id}" for one in facts.environments if one.in_use]


def _clear(host: Host, paths: list[str], record: Run) -> Outcome:
    owner = Owner(controller=controller(), run=record.id, since=now())
    connection = connect(host)
    try:
        with host_lock(
            connection,
            owner,
            note=lambda text: record.event("note", host.name, text=text),
            line=lambda text: None,
            where=places(host.spec),
        ):
            in_use = _in_use(probe(connection, host.spec), paths, host.spec.prefix)
            if in_use:
                message = f"came into use: {', '.join(in_use)}; remove again when it is free"
                return Outcome(host=host.name, status="busy", message=message)
            record.event("remove", host.name, paths=paths)
            warning = remove(connection, paths, host.spec)
            left = look(connection, host.spec)
    finally:
        connection.close()
    if left:
        message = f"still there after removal: {', '.join(left)}"
        return Outcome(host=host.name, status="failed", message=message)
    removed = tuple(f"{called(path)} is gone" for path in paths)
    return Outcome(host=host.name, status="converged", message=warning, changed=removed)


def _broken(name: str, error: Exception) -> Outcome:
    message = printable(str(error) or type(error).__name__)
    if isinstance(error, Unreachable):
        return Outcome(host=name, status="unreachable", message=message)
    if isinstance(error, Locked):
        return Outcome(host=name, status="locked", message=message)
    if isinstance(error, LockTrouble | RemovalFailed | BadProbe | TimeoutError):
        return Outcome(host=name, status="failed", message=message)
    message = f"{type(error).__name__}: {message}; this is a fault of gpufleet: please report it"
    return Outcome(host=name, status="failed", message=message)
