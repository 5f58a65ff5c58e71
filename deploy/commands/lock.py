"""Solve hosts that are new or whose wishes changed, and write exact versions into the lock."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from deploy.fleet import exits
from deploy.fleet.inventory import Fleet, read_inventory
from deploy.fleet.waiting import Waiting
from deploy.lock import Lock, lock_path, read_lock, spec_digest, write_lock
from deploy.locking import UNREACHABLE, chosen, new_lock, solve_fleet
from deploy.show_lock import changes, warnings, without
from deploy.stack import Solution
from deploy.survey import survey


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inventory", help="pyinfra inventory file")
    parser.add_argument("--limit", help="hosts, node sets, groups or globs, comma-separated")
    parser.add_argument(
        "--upgrade",
        action="store_true",
        help="solve hosts anew that are locked already (newest versions that their wishes allow)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the result as JSON instead of lines"
    )


def run(arguments: argparse.Namespace) -> int:
    fleet = read_inventory(arguments.inventory)
    wave = fleet.limit(arguments.limit) if arguments.limit is not None else fleet
    path = lock_path(Path(arguments.inventory))
    old = read_lock(path)
    todo = _to_solve(wave, old, upgrade=arguments.upgrade)
    solutions: dict[str, Solution] = {}
    if todo.hosts:
        with Waiting("looking", todo.hosts, sys.stderr) as waiting:
            found = survey(todo, keep_open=True, ended=waiting.ended)
        try:
            solutions = solve_fleet(todo, found, whole=fleet, lock=old)
        finally:
            found.close()
    return finish(fleet, solutions, old, path, as_json=arguments.json)


def _to_solve(wave: Fleet, old: Lock | None, *, upgrade: bool) -> Fleet:
    """Hosts of the wave without a stack that answers their wishes; all of them to upgrade."""
    hosts = {
        name: host
        for name, host in wave.hosts.items()
        if upgrade
        or old is None
        or name not in old.hosts
        or old.hosts[name].spec != spec_digest(host.spec)
    }
    return Fleet(wave.name, wave.path, hosts)


def finish(
    fleet: Fleet,
    solutions: Mapping[str, Solution],
    old: Lock | None,
    path: Path,
    *,
    as_json: bool,
) -> int:
    """Write the lock, say what it changes, and give the exit code."""
    lock = new_lock(fleet, solutions, old)
    changed = changes(fleet, old, lock)
    if lock.hosts or lock.blocked:
        write_lock(path, lock)
    if as_json:
        json.dump(_document(path, lock, solutions, changed), sys.stdout, indent=1, sort_keys=True)
        print()
    else:
        _tell(path, lock, solutions, changed, sys.stdout)
    rules = {solution.blocked.rule for solution in solutions.values() if solution.blocked}
    if rules - {UNREACHABLE}:
        return exits.FAILED
    return exits.NOT_LOOKED_AT if rules else exits.OK


def _tell(
    path: Path,
    lock: Lock,
    solutions: Mapping[str, Solution],
    changed: list[str],
    say: TextIO,
) -> None:
    sections = (
        ("changes", changed),
        ("no stack", without(solutions, lock)),
        ("warnings", warnings(solutions)),
    )
    for title, lines in sections:
        if lines:
            print(title, file=say)
            for line in lines:
                print(f"  {line}", file=say)
    counts = f"{len(lock.hosts)} hosts, {len(lock.stacks)} stacks"
    counts += f", {len(lock.blocked)} without a stack" if lock.blocked else ""
    print(f"{path}: {counts}" + ("" if changed else "; nothing changed"), file=say)


def _document(
    path: Path, lock: Lock, solutions: Mapping[str, Solution], changed: list[str]
) -> dict[str, object]:
    return {
        "lock": str(path),
        "digest": lock.digest,
        "changes": changed,
        "hosts": {
            name: {"stack": entry.stack, **chosen(lock.stacks[entry.stack])}
            for name, entry in lock.hosts.items()
        },
        "blocked": {
            name: solution.blocked.model_dump(mode="json")
            for name, solution in solutions.items()
            if solution.blocked
        },
        "warnings": warnings(solutions),
    }
