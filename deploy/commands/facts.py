"""Show what is on hosts: one read-only probe each, identical hosts folded.

Needs no inventory (-w gpu[001-004]) and no root on the hosts; what only root can see is then named
as unknown. Nothing is written on any host. Exit codes: 0 everything was looked at, 2 wrong input,
4 a host or a part of one could not be looked at.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from deploy.fleet import exits
from deploy.fleet.errors import Fault, WrongInput
from deploy.fleet.inventory import Fleet, named_hosts, read_inventory
from deploy.fleet.waiting import Waiting
from deploy.show_facts import show_facts
from deploy.survey import Survey, survey

SCHEMA = 1
"""Of the JSON document; a host's facts carry the version of the probe."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inventory", nargs="?", help="a pyinfra inventory file")
    parser.add_argument("-w", dest="nodes", metavar="NODESET", help="hosts without an inventory")
    parser.add_argument(
        "--limit", metavar="HOSTS", help="only these: node sets, groups or globs, by commas"
    )
    parser.add_argument("-l", "--user", help="login name, with -w")
    parser.add_argument("--ssh-config", metavar="FILE", help="OpenSSH configuration, with -w")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="facts as JSON, to a file or stdout"
    )


def run(arguments: argparse.Namespace) -> int:
    fleet = chosen_fleet(arguments)
    _check_place(arguments.json)
    started = time.monotonic()
    with Waiting("probing", fleet.hosts, sys.stderr) as waiting:
        found = survey(fleet, ended=waiting.ended)
    if arguments.json is not None:
        _write_json(found, arguments.json)
    if arguments.json != "-":
        facts = {name: found.facts[name] for name in fleet.hosts if name in found.facts}
        failed = {name: found.failed[name] for name in fleet.hosts if name in found.failed}
        show_facts(facts, failed, time.monotonic() - started, sys.stdout)
    hidden = found.failed or any(facts.unknown for facts in found.facts.values())
    return exits.NOT_LOOKED_AT if hidden else exits.OK


def chosen_fleet(arguments: argparse.Namespace) -> Fleet:
    """The fleet that the options name. Raises WrongInput."""
    if bool(arguments.inventory) == bool(arguments.nodes):
        raise WrongInput(
            [Fault("facts", "", "wanted an inventory file or -w NODESET, one of them")]
        )
    given = {"ssh_user": arguments.user, "ssh_config_file": arguments.ssh_config}
    given = {key: value for key, value in given.items() if value}
    if arguments.nodes:
        fleet = named_hosts(arguments.nodes, given)
    elif given:
        raise WrongInput(
            [Fault("facts", key, "goes with -w only: set it in the inventory") for key in given]
        )
    else:
        fleet = read_inventory(arguments.inventory)
    return fleet.limit(arguments.limit) if arguments.limit is not None else fleet


def _check_place(place: str | None) -> None:
    """Refuse a file that cannot be written before any host is asked."""
    if place is None or place == "-":
        return
    path = Path(place)
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise WrongInput([Fault("--json", place, "cannot be written")])


def _write_json(found: Survey, place: str) -> None:
    document = {
        "schema": SCHEMA,
        "facts": {name: facts.model_dump(mode="json") for name, facts in found.facts.items()},
        "failed": found.failed,
    }
    text = json.dumps(document, indent=2, sort_keys=True) + "\n"
    if place == "-":
        sys.stdout.write(text)
    else:
        Path(place).write_text(text)
