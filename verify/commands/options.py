"""Options of the verify command, and what of them cannot be meant. Pure."""

import argparse
import re
from difflib import get_close_matches
from pathlib import Path

from deploy.fleet.errors import Fault
from verify.applies import of_level
from verify.checks import BY_NAME, LEVELS, Check

WORKLOAD, MULTI_NODE = BY_NAME
EVERY = "all"
MINUTES = (1, 24 * 60)
USER = re.compile(r"[a-z_][a-z0-9_.-]{0,31}\$?")
PLACE = re.compile(r"(/\.?[A-Za-z0-9_][A-Za-z0-9._+\-]*)+")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inventory", help="pyinfra inventory file")
    parser.add_argument(
        "--level", help=f"{', '.join(LEVELS[:-1])} or {LEVELS[-1]} (default: {LEVELS[0]})"
    )
    parser.add_argument("--limit", help="hosts, node sets, groups or globs, comma-separated")
    parser.add_argument(
        "--check",
        action="append",
        default=[],
        metavar="ID",
        help="only this check; may be repeated",
    )
    parser.add_argument(
        "--workload",
        action="append",
        default=[],
        metavar="NAME",
        help=f"train this model instead of asking a level; may be repeated; {EVERY}: every one",
    )
    parser.add_argument(
        "--multi-node",
        action="store_true",
        help="train across all hosts at once; when that fails, find the host or link at fault",
    )
    parser.add_argument(
        "--env", metavar="PATH", help="prove this environment (a venv or conda folder) instead"
    )
    parser.add_argument("--as", dest="train_as", metavar="USER", help="train as this user")
    parser.add_argument(
        "--via", choices=("slurm",), help="start training as a job, inside its cgroup and limits"
    )
    parser.add_argument(
        "--minutes", type=int, metavar="N", help="how long level deep loads a host (default: 15)"
    )
    parser.add_argument(
        "--detach", action="store_true", help="level deep: start it and return at once"
    )
    parser.add_argument(
        "--checks", metavar="FOLDER", help="your own checks (default: checks/ beside the inventory)"
    )
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write the result as JSON (- = stdout)"
    )
    parser.add_argument("--strict", action="store_true", help="a degraded host ends with 1 too")
    parser.add_argument(
        "--accept-hardware",
        action="store_true",
        help="take the GPUs that are there now for each host's own from now on",
    )
    parser.add_argument(
        "--accept-figures",
        action="store_true",
        help="keep this run's figures for each host's own, also where they are lower than before",
    )


def level(arguments: argparse.Namespace) -> str:
    """What is asked: a level, or what goes by name."""
    if arguments.workload:
        return WORKLOAD
    return MULTI_NODE if arguments.multi_node else arguments.level or LEVELS[0]


def asked(arguments: argparse.Namespace, catalogue: dict[str, Check]) -> set[str]:
    """Ids of the checks that the options mean."""
    if arguments.check:
        return set(arguments.check)
    names = arguments.workload
    if names and EVERY not in names:
        return {f"{WORKLOAD}.{name}" for name in names}
    return of_level_asked(arguments, catalogue)


def of_level_asked(arguments: argparse.Namespace, catalogue: dict[str, Check]) -> set[str]:
    """Ids of all checks of the level that the options mean."""
    wanted = level(arguments)
    return {id for id, one in catalogue.items() if of_level(one.level, wanted)}


def faults(arguments: argparse.Namespace, catalogue: dict[str, Check]) -> list[Fault]:
    """Everything in the options that cannot be meant."""
    return [
        *_kinds(arguments),
        *_names(arguments, catalogue),
        *_places(arguments),
    ]


def _kinds(arguments: argparse.Namespace) -> list[Fault]:
    found = []
    if arguments.level not in (None, *LEVELS):
        message = f"found {arguments.level!r}: wanted {', '.join(LEVELS[:-1])} or {LEVELS[-1]}"
        found.append(Fault("verify", "--level", message))
    given = {
        "--level": arguments.level is not None,
        "--workload": bool(arguments.workload),
        "--multi-node": arguments.multi_node,
    }
    several = [name for name, there in given.items() if there]
    if len(several) > 1:
        found.append(Fault("verify", " and ".join(several), "exclude each other: give one"))
    trains = level(arguments) not in LEVELS[:1]
    for name, there in (
        ("--env", arguments.env is not None),
        ("--as", arguments.train_as is not None),
        ("--via", arguments.via is not None),
    ):
        if there and not trains:
            message = "needs training: --level standard, --workload NAME or --multi-node"
            found.append(Fault("verify", name, message))
    deep = level(arguments) == LEVELS[-1]
    for name, there in (
        ("--minutes", arguments.minutes is not None),
        ("--detach", arguments.detach),
    ):
        if there and not deep:
            found.append(Fault("verify", name, f"is for --level {LEVELS[-1]} alone"))
    least, most = MINUTES
    if arguments.minutes is not None and not least <= arguments.minutes <= most:
        message = f"found {arguments.minutes}: wanted {least} to {most}"
        found.append(Fault("verify", "--minutes", message))
    if arguments.train_as is not None and not USER.fullmatch(arguments.train_as):
        found.append(Fault("verify", "--as", f"found {arguments.train_as!r}: no name of a user"))
    if arguments.train_as == "root":
        message = "found 'root': wanted a user who has jobs there; training never runs as root"
        found.append(Fault("verify", "--as", message))
    if arguments.env is not None and not PLACE.fullmatch(arguments.env):
        message = f"found {arguments.env!r}: wanted an absolute path of plain characters"
        found.append(Fault("verify", "--env", message))
    return found


def _names(arguments: argparse.Namespace, catalogue: dict[str, Check]) -> list[Fault]:
    found = []
    workloads = [id.partition(".")[2] for id, one in catalogue.items() if one.level == WORKLOAD]
    for name in arguments.workload:
        if name != EVERY and name not in workloads:
            message = f"found {name!r}: wanted {EVERY}, {', '.join(workloads)}"
            found.append(Fault("verify", "--workload", message))
    for id in arguments.check:
        one = catalogue.get(id)
        if one is None:
            near = get_close_matches(id, catalogue, n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            found.append(Fault("verify", "--check", f"found {id!r}: no such check{hint}"))
        elif arguments.level in (None, *LEVELS) and not of_level(one.level, level(arguments)):
            message = f"{id} needs {words(one.level, id)}"
            found.append(Fault("verify", "--check", message))
    return found


def _places(arguments: argparse.Namespace) -> list[Fault]:
    found = []
    target = arguments.json
    if target not in (None, "-") and not Path(target).absolute().parent.is_dir():
        found.append(Fault("verify", "--json", f"found {target}: its folder does not exist"))
    if arguments.checks is not None and not Path(arguments.checks).is_dir():
        found.append(Fault("verify", "--checks", f"found {arguments.checks}: no such folder"))
    return found


def words(of: str, id: str = "") -> str:
    """The options that ask what a check's level names: "--level standard", "--multi-node"."""
    if of == WORKLOAD:
        return f"--workload {id.partition('.')[2] or EVERY}"
    return "--multi-node" if of == MULTI_NODE else f"--level {of}"


def given(arguments: argparse.Namespace) -> list[str]:
    """What was asked, as the record shows it and as it can be asked again."""
    wanted = level(arguments)
    found = ["--level", wanted] if wanted in LEVELS else []
    found += ["--limit", arguments.limit] if arguments.limit is not None else []
    for name in arguments.workload:
        found += ["--workload", name]
    found += ["--multi-node"] * arguments.multi_node
    for name, text in (
        ("--env", arguments.env),
        ("--as", arguments.train_as),
        ("--via", arguments.via),
        ("--minutes", arguments.minutes),
        ("--checks", arguments.checks),
    ):
        found += [name, str(text)] if text is not None else []
    for id in arguments.check:
        found += ["--check", id]
    found += ["--strict"] * arguments.strict + ["--detach"] * arguments.detach
    found += ["--accept-figures"] * arguments.accept_figures
    return found + ["--accept-hardware"] * arguments.accept_hardware
