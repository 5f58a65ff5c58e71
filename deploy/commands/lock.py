"""Solve hosts that are new or whose wishes changed, and write exact versions into the lock."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from deploy.fleet import exits
from deploy.fleet.errors import Fault, WrongInput
from deploy.fleet.inventory import Fleet, read_inventory
from deploy.fleet.waiting import Waiting
from deploy.lock import Lock, lock_path, read_lock, spec_digest, write_lock
from deploy.locking import UNREACHABLE, chosen, new_lock, solve_fleet
from deploy.show_lock import changes, reboots, warnings, without
from deploy.stack import Solution
from deploy.survey import survey
from deploy.upgrading import PARTS, Kept, named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inventory", nargs="?", help="pyinfra inventory file")
    parser.add_argument("--limit", help="hosts, node sets, groups or globs, comma-separated")
    parser.add_argument(
        "--upgrade",
        nargs="*",
        metavar="PART",
        help="move hosts that are locked already to the newest versions that their wishes allow: "
        f"everything, or only the named parts ({', '.join(PARTS)})",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the result as JSON instead of lines"
    )


def run(arguments: argparse.Namespace) -> int:
    inventory, moving = _asked(arguments.inventory, arguments.upgrade)
    fleet = read_inventory(inventory)
    wave = fleet.limit(arguments.limit) if arguments.limit is not None else fleet
    path = lock_path(Path(inventory))
    old = read_lock(path)
    todo = _to_solve(wave, old, upgrade=bool(moving))
    kept = Kept(todo, old, moving) if old and moving and moving != set(PARTS) else None
    solutions: dict[str, Solution] = {}
    if todo.hosts:
        with Waiting("looking", todo.hosts, sys.stderr) as waiting:
            found = survey(todo, keep_open=True, ended=waiting.ended)
        try:
            solutions = solve_fleet(todo, found, whole=fleet, lock=old, kept=kept)
        finally:
            found.close()
    return finish(fleet, solutions, old, path, as_json=arguments.json)


def _asked(inventory: str | None, words: list[str] | None) -> tuple[str, frozenset[str]]:
    """The inventory, which may also stand after --upgrade's words, and the parts to move; none
    without --upgrade. Raises WrongInput."""
    if inventory is None and words:
        *words, inventory = words
    if inventory is None:
        raise WrongInput([Fault("lock", "", "wanted an inventory: gpufleet lock INVENTORY")])
    return inventory, frozenset() if words is None else named(words)


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
    booting = reboots(fleet, old, lock)
    if lock.hosts or lock.blocked:
        write_lock(path, lock)
    if as_json:
        json.dump(
            _document(path, lock, solutions, changed, booting), sys.stdout, indent=1, sort_keys=True
        )
        print()
    else:
        _tell(path, lock, solutions, changed, booting, sys.stdout)
    rules = {solution.blocked.rule for solution in solutions.values() if solution.blocked}
    if rules - {UNREACHABLE}:
        return exits.FAILED
    return exits.NOT_LOOKED_AT if rules else exits.OK


def _tell(
    path: Path,
    lock: Lock,
    solutions: Mapping[str, Solution],
    changed: list[str],
    booting: list[str],
    say: TextIO,
) -> None:
    sections = (
        ("changes", changed),
        ("reboots", booting),
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
    path: Path,
    lock: Lock,
    solutions: Mapping[str, Solution],
    changed: list[str],
    booting: list[str],
) -> dict[str, object]:
    return {
        "lock": str(path),
        "digest": lock.digest,
        "changes": changed,
        "reboots": booting,
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
