"""A plan for people: a summary line, then hosts with equal plans together. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from deploy.fleet.names import fold
from deploy.fleet.runs import printable
from deploy.plan import HostPlan, Verdict
from deploy.stack import Blocked, Solution, Stack

Line = tuple[str, str]
"""Style (a rich style, "" for none) and text."""

SHOWN_USERS = 5
ONE_LINE = 84
"""Title and reason together; longer ones take two lines."""
STYLE: dict[str, str] = {
    "keep": "green",
    "change": "cyan",
    "busy": "yellow",
    "blocked": "red",
    "unreachable": "red",
}
ORDER = ("blocked", "unreachable", "busy", "change", "keep")


@dataclass(frozen=True)
class View:
    """All that is shown of one run of `plan`."""

    fleet: str
    inventory: str
    lock: str
    """Path of the lock that was used, "" when versions were solved in memory."""
    stacks: int
    plans: Mapping[str, HostPlan]
    unreachable: Mapping[str, str]
    notes: Mapping[str, tuple[str, ...]]
    """Host -> what is worth saying beside its plan."""
    chosen: Mapping[str, str] = field(default_factory=dict)
    """Host -> its whole stack in one line."""


def counts(view: View) -> dict[str, int]:
    """The figures of the summary line; `busy` counts hosts with something that must wait."""
    verdicts = [plan.verdict for plan in view.plans.values()]
    ready: tuple[Verdict, ...] = ("change", "busy")
    return {
        "keep": verdicts.count("keep"),
        "change": sum(verdict in ready for verdict in verdicts),
        "blocked": verdicts.count("blocked"),
        "reboots": sum(plan.reboot is not None for plan in view.plans.values()),
        "busy": verdicts.count("busy"),
        "unreachable": len(view.unreachable),
        "download": sum(plan.download for plan in view.plans.values()),
    }


def size(count: int) -> str:
    """Bytes for people, in decimal units as repositories count them."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def render(view: View) -> list[Line]:
    """The whole answer: summary, origin of the versions, hosts, next command."""
    figures = counts(view)
    hosts = len(view.plans) + len(view.unreachable)
    said = [f"{name} {figures[name]}" for name in figures if name != "download"]
    said.append(f"download {size(figures['download'])}")
    lines: list[Line] = [("bold", f"{view.fleet}: {hosts} hosts: {', '.join(said)}")]
    if view.lock:
        lines.append(("dim", f"versions: {view.lock} ({_many(view.stacks, 'stack')})"))
    else:
        lines.append(
            (
                "dim",
                f"versions: no lock, so {_many(view.stacks, 'stack')} solved now and written "
                f"nowhere; gpufleet lock {view.inventory} writes them down",
            )
        )
    if any(_unsized(plan) for plan in view.plans.values()):
        lines.append(("dim", "download: wheels of unknown size come on top"))
    for kind in ORDER:
        for names, plan, message in _groups(view, kind):
            lines += [("", ""), *_group(kind, names, plan, message, view)]
    return [*lines, ("", ""), ("bold", f"next: {_next(view, figures)}")]


def in_one_line(stack: Stack) -> str:
    """What a host gets, the answer to "which CUDA do I choose?" in it."""
    driver, environment = stack.driver, stack.environment
    parts = [f"driver {driver.version} ({driver.flavour})"] if driver else []
    names = {"cuda": "CUDA toolkit", "cudnn": "cuDNN", "nccl": "NCCL", "dcgm": "DCGM"}
    names |= {"container_toolkit": "container toolkit"}
    tied = ("fabric", "imex")  # always at the driver's version
    parts += [f"{names[key]} {part.version}" for key, part in stack.components if key not in tied]
    if environment:
        whose = " of uv" if environment.managed_python else ""
        parts += [f"torch {environment.torch}+{environment.build}"]
        parts += [f"Python {environment.python}{whose}"]
    return ", ".join(parts) or "nothing is managed"


def explain(solution: Solution, plan: HostPlan, today: Solution | None = None) -> list[Line]:
    """The chain of reasons for one host. `today` is what solving gives now, beside a lock."""
    lines: list[Line] = [("bold", solution.host)]
    if solution.stack is not None:
        lines.append(("cyan", f"  {printable(in_one_line(solution.stack))}"))
    told = solution
    if today is not None and solution.stack is not None:
        locked = f"  the lock says stack {solution.stack.id}"
        if today.stack == solution.stack:
            lines.append(("dim", f"{locked}; solving again today gives the same, because:"))
            told = today
        elif today.stack is not None:
            lines += [("dim", f"{locked}:"), *_reasons(solution)]
            lines.append(("", f"  today the answer would be stack {today.stack.id}:"))
            told = today
    lines += _reasons(told)
    blocked = solution.blocked or plan.blocked
    if blocked is not None:
        lines += _blocked(blocked)
    warnings = dict.fromkeys((*told.warnings, *plan.warnings))
    return lines + [("yellow", f"  warning: {printable(text)}") for text in warnings]


def _reasons(solution: Solution) -> list[Line]:
    lines: list[Line] = []
    width = max((len(reason.part) for reason in solution.reasons), default=0)
    for reason in solution.reasons:
        lines.append(("cyan", f"  {reason.part:<{width}}  {printable(reason.choice)}"))
        lines.append(("", f"  {'':<{width}}  because {printable(reason.because)}"))
        lines.append(("dim", f"  {'':<{width}}  source: {printable(reason.source)}"))
    return lines


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _unsized(plan: HostPlan) -> bool:
    return any(
        step.layer == "torch-env" and step.title.endswith("is built") and not step.download
        for step in plan.steps
    )


def _groups(view: View, kind: str) -> Iterable[tuple[list[str], HostPlan | None, str]]:
    alike: dict[object, tuple[list[str], HostPlan | None, str]] = {}
    if kind == "unreachable":
        for name, message in view.unreachable.items():
            alike[name] = ([name], None, message)
        return alike.values()
    for name, plan in view.plans.items():
        if plan.verdict == kind:
            notes = () if kind == "keep" else view.notes.get(name, ())
            key = (_likeness(plan), notes, view.chosen.get(name, ""))
            alike.setdefault(key, ([], plan, ""))[0].append(name)
    return sorted(alike.values(), key=lambda group: (-len(group[0]), group[0]))


def _likeness(plan: HostPlan) -> object:
    steps = tuple(
        (step.layer, step.title, step.why, step.disruptive, step.download) for step in plan.steps
    )
    blocked = plan.blocked.model_copy(update={"host": ""}) if plan.blocked else None
    users = plan.busy if plan.verdict == "busy" else ()
    return (plan.verdict, steps, plan.reboot, users, blocked, plan.warnings, plan.left_out)


def _group(
    kind: str, names: list[str], plan: HostPlan | None, message: str, view: View
) -> list[Line]:
    head = f"{kind:<7} {fold(names)}"
    if len(names) > 1:
        head += f" ({len(names)})"
    if plan is not None and plan.steps:
        head += f": {_many(len(plan.steps), 'step')}"
        each = " each" if len(names) > 1 else ""
        head += f", {size(plan.download)}{each}" if plan.download else ""
    lines: list[Line] = [(f"bold {STYLE[kind]}", head)]
    if plan is None:
        return [*lines, ("", f"  {printable(message.removeprefix(f'{names[0]}: '))}")]
    if plan.blocked is not None:
        return lines + _blocked(plan.blocked)
    if names[0] in view.chosen:
        lines.append(("cyan", f"  {printable(view.chosen[names[0]])}"))
    if kind == "busy":
        more = len(plan.busy) - SHOWN_USERS
        rest = f" and {more} more" if more > 0 else ""
        lines.append(
            ("yellow", f"  in use by {printable(', '.join(plan.busy[:SHOWN_USERS]))}{rest}")
        )
        lines.append(("yellow", "  what is marked ! waits until they have finished"))
    width = max((len(step.layer) for step in plan.steps), default=0)
    for step in plan.steps:
        mark = "!" if step.disruptive and kind == "busy" else " "
        fetch = f"  [{size(step.download)}]" if step.download else ""
        title, why = f"{printable(step.title)}{fetch}", printable(step.why)
        if len(title) + len(why) <= ONE_LINE:
            lines.append(("", f"{mark} {step.layer:<{width}}  {title} ({why})"))
        else:
            lines.append(("", f"{mark} {step.layer:<{width}}  {title}"))
            lines.append(("dim", f"  {'':<{width}}  {why}"))
    if plan.reboot is not None:
        lines.append(("magenta", f"  reboot expected: {printable(plan.reboot.why)}"))
    lines += [("yellow", f"  warning: {printable(text)}") for text in plan.warnings]
    if plan.left_out:
        why = "left out, the inventory says privileged = False"
        lines.append(("dim", f"  {', '.join(plan.left_out)}: {why}"))
    if kind != "keep":
        lines += [("dim", f"  note: {printable(text)}") for text in view.notes.get(names[0], ())]
    return lines


def _blocked(blocked: Blocked) -> list[Line]:
    return [
        ("", f"  {printable(blocked.reason)}"),
        ("dim", f"  rule: {printable(blocked.rule)} (source: {printable(blocked.source)})"),
        *(("", f"  to unblock: {printable(way)}") for way in blocked.unblock),
    ]


def _next(view: View, figures: Mapping[str, int]) -> str:
    if figures["change"]:
        return f"gpufleet apply {view.inventory}"
    if figures["blocked"]:
        host = next(name for name, plan in view.plans.items() if plan.blocked is not None)
        return f"gpufleet plan {view.inventory} --explain {host}"
    if figures["unreachable"]:
        return f"ssh {next(iter(view.unreachable))}"
    return f"gpufleet verify {view.inventory} (nothing to change)"
