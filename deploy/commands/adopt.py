"""Take what is installed and works on a living fleet into the lock; no repository is asked."""

import argparse
import sys
from pathlib import Path

from deploy.adopting import adopt
from deploy.catalog import load
from deploy.commands.lock import finish
from deploy.fleet.inventory import read_inventory
from deploy.fleet.waiting import Waiting
from deploy.lock import lock_path, read_lock
from deploy.locking import no_facts
from deploy.survey import survey


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inventory", help="pyinfra inventory file")
    parser.add_argument("--limit", help="hosts, node sets, groups or globs, comma-separated")
    parser.add_argument(
        "--json", action="store_true", help="print the result as JSON instead of lines"
    )


def run(arguments: argparse.Namespace) -> int:
    fleet = read_inventory(arguments.inventory)
    wave = fleet.limit(arguments.limit) if arguments.limit is not None else fleet
    path = lock_path(Path(arguments.inventory))
    old = read_lock(path)
    with Waiting("looking", wave.hosts, sys.stderr) as waiting:
        found = survey(wave, ended=waiting.ended)
    catalogue = load()
    solutions = {
        name: adopt(host.spec, found.facts[name], catalogue, old)
        if name in found.facts
        else no_facts(found, name)
        for name, host in wave.hosts.items()
    }
    return finish(fleet, solutions, old, path, as_json=arguments.json)
