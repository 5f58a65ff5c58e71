"""Show what would change on every host, and why; touches nothing."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from deploy.fleet import exits
from deploy.fleet.errors import Fault, WrongInput
from deploy.fleet.inventory import Fleet, read_inventory
from deploy.fleet.waiting import Waiting
from deploy.gone import without_gone
from deploy.lock import lock_path, read_lock
from deploy.locking import answers, solve_fleet
from deploy.plan import HostPlan, plan_host
from deploy.show_plan import Line, View, counts, explain, in_one_line, render
from deploy.stack import Solution
from deploy.steps import Wanted
from deploy.survey import Survey, survey

SCHEMA = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inventory", help="pyinfra inventory file")
    parser.add_argument("--limit", help="hosts, node sets, groups or globs, comma-separated")
    parser.add_argument(
        "--check", action="store_true", help="exit with 3 when at least one host would change"
    )
    parser.add_argument("--explain", metavar="HOST", help="the chain of reasons for one host")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write the plan as JSON (- = stdout)"
    )


def run(arguments: argparse.Namespace) -> int:
    whole = read_inventory(arguments.inventory)
    fleet = whole.limit(arguments.limit) if arguments.limit is not None else whole
    if arguments.explain is not None:
        fleet = _only(fleet, arguments.explain)
    _writable(arguments.json)
    path = lock_path(Path(arguments.inventory))
    lock = read_lock(path)
    if lock is not None:
        answers(fleet, Survey(), lock)  # refuses a stale lock before any connection is made
    say = sys.stderr if arguments.json == "-" else sys.stdout
    with Waiting("looking", fleet.hosts, sys.stderr) as waiting:
        found = survey(fleet, ended=waiting.ended)
    solutions = answers(fleet, found, lock, whole=whole)
    plans = make_plans(fleet, found, solutions)
    if lock is not None:
        plans = without_gone(fleet, found, solutions, plans)
    view = View(
        fleet=fleet.name,
        inventory=arguments.inventory,
        lock=str(path) if lock else "",
        stacks=len({one.stack.id for one in solutions.values() if one.stack}),
        plans=plans,
        unreachable={n: why for n, why in found.unreachable.items() if n in fleet.hosts},
        notes={name: _notes(solution) for name, solution in solutions.items()},
        chosen={name: in_one_line(one.stack) for name, one in solutions.items() if one.stack},
    )
    code = exit_code(view, check=arguments.check)
    if arguments.explain in plans:
        # A lock holds answers, not reasons: those come from solving once more, today.
        today = None
        if lock is not None:
            today = solve_fleet(fleet, found, whole=whole, lock=lock)[arguments.explain]
        lines = explain(solutions[arguments.explain], plans[arguments.explain], today)
    else:
        lines = render(view)
    _print(lines, Console(file=say))
    if arguments.json:
        _write(arguments.json, document(view, solutions, code))
    return code


def make_plans(fleet: Fleet, found: Survey, solutions: dict[str, Solution]) -> dict[str, HostPlan]:
    """The plan of every host that answered."""
    plans = {}
    for name, host in fleet.hosts.items():
        if name in found.unreachable:
            continue
        solution = solutions[name]
        if solution.stack is None:
            plan = HostPlan(host=name, blocked=solution.blocked)
        else:
            plan = plan_host(
                Wanted(host=name, spec=host.spec, stack=solution.stack), found.facts[name]
            )
        more = tuple(text for text in solution.warnings if text not in plan.warnings)
        plans[name] = plan.model_copy(update={"warnings": more + plan.warnings})
    return plans


def exit_code(view: View, *, check: bool) -> int:
    """Blocked beats pending changes, which beat hosts that could not be looked at."""
    figures = counts(view)
    if figures["blocked"]:
        return exits.FAILED
    if check and figures["change"]:
        return exits.CHANGES_PENDING
    return exits.NOT_LOOKED_AT if figures["unreachable"] else exits.OK


def document(view: View, solutions: dict[str, Solution], code: int) -> dict[str, Any]:
    """The plan for machines: plain JSON values, every host of the inventory in it."""
    hosts: dict[str, Any] = {}
    for name, plan in view.plans.items():
        stack = solutions[name].stack
        hosts[name] = {
            "verdict": plan.verdict,
            "stack": stack.id if stack else None,
            "steps": [step.model_dump(mode="json", exclude={"commands"}) for step in plan.steps],
            "reboot": plan.reboot.model_dump(mode="json") if plan.reboot else None,
            "busy": list(plan.busy),
            "blocked": plan.blocked.model_dump(mode="json") if plan.blocked else None,
            "warnings": list(plan.warnings),
            "left_out": list(plan.left_out),
            "notes": list(view.notes.get(name, ())),
            "download": plan.download,
            "reasons": [reason.model_dump(mode="json") for reason in solutions[name].reasons],
        }
    for name, message in view.unreachable.items():
        hosts[name] = {"verdict": "unreachable", "message": message}
    return {
        "schema": SCHEMA,
        "fleet": view.fleet,
        "inventory": view.inventory,
        "lock": view.lock or None,
        "summary": counts(view),
        "hosts": hosts,
        "exit": code,
    }


def _only(fleet: Fleet, name: str) -> Fleet:
    if name not in fleet.hosts:
        raise WrongInput([Fault("plan", "--explain", f"found {name!r}: no host of {fleet.name}")])
    return Fleet(fleet.name, fleet.path, {name: fleet.hosts[name]})


def _writable(where: str | None) -> None:
    """Refuse a file that cannot be written before anything is looked at."""
    if where not in (None, "-") and not Path(str(where)).absolute().parent.is_dir():
        raise WrongInput([Fault("plan", "--json", f"found {where!r}: its folder does not exist")])


def _notes(solution: Solution) -> tuple[str, ...]:
    environment = solution.stack.environment if solution.stack else None
    if environment is None or not environment.hardware_build:
        return ()
    if environment.build == environment.hardware_build:
        return ()
    return (
        f"torch build {environment.build} as the inventory asks; the hardware alone would choose "
        f"{environment.hardware_build}",
    )


def _print(lines: list[Line], console: Console) -> None:
    for style, text in lines:
        console.print(Text(text, style=style), soft_wrap=True, highlight=False)


def _write(where: str, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    if where == "-":
        sys.stdout.write(text)
    else:
        Path(where).write_text(text)
