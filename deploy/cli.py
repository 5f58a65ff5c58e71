"""The gpufleet command: subcommands by name, faults said once, exit codes with one meaning each."""

import argparse
import ast
import importlib
import importlib.util
import logging
import os
import resource
import sys
from pathlib import Path
from types import ModuleType

COMMANDS = {
    "facts": "deploy.commands.facts",
    "plan": "deploy.commands.plan",
    "lock": "deploy.commands.lock",
    "adopt": "deploy.commands.adopt",
    "apply": "deploy.commands.apply",
    "remove": "deploy.commands.remove",
    "verify": "verify.commands.verify",
    "status": "verify.commands.status",
    "report": "verify.commands.report",
    "explain": "verify.commands.explain",
    "evidence": "verify.commands.evidence",
}
"""Subcommand -> module, loaded only when it is used. A module has `add_arguments(parser)` and
`run(arguments) -> exit code`; the first line of its docstring is its help."""


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; returns its exit code (deploy.fleet.exits)."""
    # First of all: pyinfra's connectors wait in greenlets, and what is imported before the patch
    # (socket, ssl, threading) keeps the waits that block every host.
    from gevent import monkey

    monkey.patch_all()
    from deploy.fleet import exits
    from deploy.fleet.errors import WrongInput

    _quiet_libraries()
    _allow_many_files()
    _look_up_many_names()
    words = sys.argv[1:] if argv is None else argv
    try:
        arguments, command = _parse(words)
        if command is None:
            return exits.OK
        return int(command.run(arguments))
    except WrongInput as error:
        count = len(error.faults)
        print(f"gpufleet: {count} fault{'s' * (count != 1)}, nothing was run", file=sys.stderr)
        for fault in error.faults:
            print(f"  {fault}", file=sys.stderr)
        return exits.WRONG_INPUT
    except KeyboardInterrupt:
        print("gpufleet: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output (head, less) has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.OK


def _parse(words: list[str]) -> tuple[argparse.Namespace, ModuleType | None]:
    parser = argparse.ArgumentParser(
        prog="gpufleet",
        description="From bare Linux GPU hosts to a cluster that has proven it can train.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=bool(words))
    chosen = next((word for word in words if not word.startswith("-")), None)
    command = None
    for name, place in COMMANDS.items():
        spec = importlib.util.find_spec(place)
        if spec is None or spec.origin is None:
            continue  # not part of this installation
        about = ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""
        subparser = commands.add_parser(
            name,
            help=about.partition("\n")[0],
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if chosen == name:
            command = importlib.import_module(place)
            command.add_arguments(subparser)
    if not words:
        parser.print_help()
    return parser.parse_args(words), command


def _quiet_libraries() -> None:
    """pyinfra, paramiko and gevent print by themselves what we say better, with the next step."""
    for name in ("pyinfra", "paramiko"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    import gevent

    hub = gevent.get_hub()
    hub.NOT_ERROR = (*hub.NOT_ERROR, KeyboardInterrupt)  # still raised in the main greenlet


def _look_up_many_names() -> None:
    """Names are resolved in threads, ten of them by default: where a name server is slow, hosts
    would wait for each other's names until their own deadline."""
    import gevent

    gevent.get_hub().threadpool.maxsize = 64


def _allow_many_files() -> None:
    """One connection per host is one open file: take what the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
