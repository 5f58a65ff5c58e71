"""Show what is on hosts: one read-only probe each, identical hosts folded."""

import argparse
import json
import sys
from pathlib import Path

from deploy.fleet import exits
from deploy.fleet.errors import Fault, WrongInput
from deploy.fleet.inventory import Fleet, named_hosts, read_inventory
from deploy.survey import survey


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inventory", nargs="?", help="a pyinfra inventory file")
    parser.add_argument("-w", dest="nodes", metavar="NODESET", help="hosts without an inventory")
    parser.add_argument("--limit", metavar="HOSTS", help="node sets, groups or globs")
    parser.add_argument("-l", "--user", help="login name, with -w")
    parser.add_argument("--ssh-config", metavar="FILE", help="OpenSSH configuration, with -w")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="facts as JSON")


def run(arguments: argparse.Namespace) -> int:
    fleet = _fleet(arguments)
    found = survey(fleet)
    document = {
        "facts": {name: facts.model_dump(mode="json") for name, facts in found.facts.items()},
        "failed": found.failed,
    }
    text = json.dumps(document, indent=2, sort_keys=True) + "\n"
    if arguments.json in (None, "-"):
        sys.stdout.write(text)
    else:
        Path(arguments.json).write_text(text)
    return exits.NOT_LOOKED_AT if found.failed else exits.OK


def _fleet(arguments: argparse.Namespace) -> Fleet:
    if bool(arguments.inventory) == bool(arguments.nodes):
        raise WrongInput(
            [Fault("facts", "", "wanted an inventory file or -w NODESET, one of them")]
        )
    if arguments.inventory:
        for option in ("user", "ssh_config"):
            if getattr(arguments, option):
                name = option.replace("_", "-")
                raise WrongInput([Fault(f"--{name}", "", "goes with -w; set it in the inventory")])
        fleet = read_inventory(arguments.inventory)
    else:
        given = {"ssh_user": arguments.user, "ssh_config_file": arguments.ssh_config}
        fleet = named_hosts(arguments.nodes, {key: v for key, v in given.items() if v})
    return fleet.limit(arguments.limit) if arguments.limit is not None else fleet
