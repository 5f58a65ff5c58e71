"""The command: boots, breaks, heals and removes simulated fleets."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from pathlib import Path

from tests.sim import PACKAGES, faults, lifecycle, node, paths
from tests.sim.fleet import existing
from tests.sim.proc import SimError, WrongUseError, say
from tests.sim.profiles import FLEETS, HARDWARE
from tests.sim.systems import SYSTEMS

_VARIABLES = (
    "SIM_MIRROR names the Debian mirror, SIM_DNS the resolver of the nodes, where the machine's "
    "own do not serve. Everything is kept in $XDG_CACHE_HOME/gpufleet/sim (~/.cache without it)."
)


def main(argv: list[str]) -> int:
    """Run one command; 0 done, 1 failed, 2 wrong arguments and nothing done."""
    args = _parser().parse_args(argv)
    if args.command == "packages":
        print(" ".join(PACKAGES))
        return 0
    if os.geteuid() != 0:
        _become_root(argv)
    paths.make_cache()
    try:
        return int(args.run(args) or 0)
    except WrongUseError as wrong:
        say(str(wrong))
        return 2
    except SimError as failed:
        say(str(failed))
        return 1


def _up(args: argparse.Namespace) -> None:
    wanted = None
    if args.nodes and args.profile:
        raise WrongUseError("--nodes and --profile exclude each other")
    if args.profile:
        if args.profile not in FLEETS:
            raise WrongUseError(f"no profile {args.profile!r}; profiles: {', '.join(FLEETS)}")
        wanted = FLEETS[args.profile]
    if args.nodes:
        pairs = [pair.partition(":") for pair in args.nodes.split(",")]
        wanted = {name: hardware for name, _, hardware in pairs}
        if len(wanted) != len(pairs):
            raise WrongUseError(f"--nodes names a node twice: {args.nodes}")
    _show(lifecycle.status(lifecycle.up(args.fleet, wanted)), False)


def _down(args: argparse.Namespace) -> None:
    for name in existing() if args.all else [args.fleet]:
        lifecycle.down(name)


def _status(args: argparse.Namespace) -> None:
    _show(lifecycle.status(lifecycle.known(args.fleet)), args.json)


def _restore(args: argparse.Namespace) -> None:
    lifecycle.restore(args.fleet, args.node)


def _fault(args: argparse.Namespace) -> None:
    target = lifecycle.known(args.fleet).node(args.node)
    for kind in args.kind:
        faults.parse(kind)  # nothing is applied when one of them is wrong
    for kind in args.kind:
        faults.apply(target, kind)


def _heal(args: argparse.Namespace) -> None:
    target = lifecycle.known(args.fleet).node(args.node)
    for kind in args.kind:
        faults.parse(kind)
    healed = [one for kind in args.kind or [None] for one in faults.heal(target, kind)]
    say(f"{target.name}: healed {', '.join(healed) or 'nothing'}")


def _shell(args: argparse.Namespace) -> None:
    fleet = lifecycle.known(args.fleet)
    target = fleet.node(args.node)
    if args.root:
        command = [*node.enter(target), *(args.words or ["bash", "-l"])]
    else:
        remote = [shlex.join(args.words)] if args.words else []
        command = ["ssh", "-F", str(fleet.ssh_config), target.name, *remote]
    os.execvp(command[0], command)


def _purge(args: argparse.Namespace) -> None:
    lifecycle.purge()


def _show(status: dict[str, object], as_json: bool) -> None:
    if as_json:
        print(json.dumps(status, indent=2))
        return
    print(f"simulated fleet {status['name']}  {status['subnet']}")
    nodes = status["nodes"]
    assert isinstance(nodes, dict)
    for name, entry in nodes.items():
        faults = "  faults: " + ", ".join(entry["faults"]) if entry["faults"] else ""
        print(
            f"  {name:12} {entry['address']:14} {entry['hardware']:10} "
            f"{entry['system']:11} {entry['state']}{faults}"
        )
    print(f"  ssh -F {paths.fleets() / str(status['name']) / 'ssh_config'} NODE")


def _become_root(argv: list[str]) -> None:
    """Start again through sudo, with this user's cache directory."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    try:
        os.execvp(
            "sudo",
            ["sudo", "-E", "env", f"XDG_CACHE_HOME={cache}", f"HOME={Path.home()}",
             "PYTHONDONTWRITEBYTECODE=1", sys.executable, "-m", "tests.sim", *argv],
        )  # fmt: skip
    except FileNotFoundError:
        say("needs root, and there is no sudo")
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.sim", description=__doc__, epilog=_VARIABLES
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: object, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help)
        sub.set_defaults(run=run)
        sub.add_argument("--fleet", default="demo", help="which fleet (default: demo)")
        return sub

    sub = command("up", _up, "boot a fleet; a no-op when it is up")
    sub.add_argument("--profile", help=f"nodes of a new fleet: {', '.join(FLEETS)}")
    sub.add_argument(
        "--nodes",
        help=f"name:hardware[@system],... ; hardware: "
        f"{', '.join(HARDWARE)}; systems: {', '.join(SYSTEMS)}",
    )
    sub = command("down", _down, "remove a fleet")
    sub.add_argument("--all", action="store_true", help="remove every fleet")
    sub = command("status", _status, "what is up")
    sub.add_argument("--json", action="store_true")
    sub = command("restore", _restore, "bring nodes back to their first boot")
    sub.add_argument("node", nargs="*")
    sub = command("fault", _fault, "break a running node; `fault NODE ?` lists the faults")
    sub.add_argument("node")
    sub.add_argument("kind", nargs="+", metavar="KIND[:ARGUMENT]")
    sub = command("heal", _heal, "take faults, without a name all, away from a node")
    sub.add_argument("node")
    sub.add_argument("kind", nargs="*", metavar="KIND[:ARGUMENT]")
    sub = command("shell", _shell, "log in to a node, or run a command there")
    sub.add_argument("--root", action="store_true", help="as root, without the node's sshd")
    sub.add_argument("node")
    sub.add_argument("words", nargs="*", metavar="command")
    command("purge", _purge, "remove all fleets, the base system and all caches")
    command("packages", None, "Debian packages that this machine needs for it")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
