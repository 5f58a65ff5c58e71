"""What a new lock changes, for people: equal changes of several hosts on one line."""

from collections.abc import Iterator, Mapping

from deploy.fleet.inventory import Fleet
from deploy.fleet.names import fold
from deploy.lock import Lock
from deploy.locking import chosen
from deploy.stack import Solution, Stack, TorchEnvironment


def changes(fleet: Fleet, old: Lock | None, new: Lock) -> list[str]:
    """One line per distinct change, the hosts that share it in front; [] when nothing changes."""
    groups: dict[str, list[str]] = {}
    for name in fleet.hosts:
        before = old.stack_of(name) if old else None
        text = difference(before, new.stack_of(name))
        if text:
            groups.setdefault(text, []).append(name)
    lines = [f"{fold(names)}: {text}" for text, names in groups.items()]
    gone = sorted(set(old.hosts) | set(old.blocked) if old else set())
    if left := [name for name in gone if name not in fleet.hosts]:
        lines.append(f"{fold(left)}: no longer in the inventory, dropped")
    return lines


def reboots(fleet: Fleet, old: Lock | None, new: Lock) -> list[str]:
    """Hosts whose kernel module changes, one line per distinct change."""
    groups: dict[str, list[str]] = {}
    for name in fleet.hosts:
        before, after = old.stack_of(name) if old else None, new.stack_of(name)
        if before is None or after is None or not before.driver or not after.driver:
            continue
        was, now = (f"{one.version} ({one.flavour})" for one in (before.driver, after.driver))
        if was != now:
            groups.setdefault(f"the kernel module changes, {was} -> {now}", []).append(name)
    return [
        f"{fold(names)}: {text}: where it does not unload, apply needs a reboot"
        for text, names in groups.items()
    ]


def difference(before: Stack | None, after: Stack | None) -> str:
    """What a host's stack was and is, "" when it is the same."""
    if after is None:
        return "" if before is None else "has no stack any more"
    if before is None:
        return "new: " + ", ".join(f"{part} {what}" for part, what in chosen(after).items())
    if before.id == after.id:
        return ""
    was, now = chosen(before), chosen(after)
    told = [
        f"{part} {was.get(part, 'none')} -> {now.get(part, 'none')}"
        for part in dict.fromkeys([*was, *now])
        if was.get(part) != now.get(part)
    ]
    found = [*told, *_inside(before, after)]
    return "; ".join(found) or f"details that have no name here (stack {before.id} -> {after.id})"


def _inside(before: Stack, after: Stack) -> Iterator[str]:
    """Changes below what people name: packages, wheels, repository, places."""
    was, now = _packages(before), _packages(after)
    if changed := sum(was.get(name) != now.get(name) for name in {*was, *now}):
        yield f"{changed} packages"
    was, now = _wheels(before), _wheels(after)
    if before.environment and after.environment:
        moved = sorted(name for name in {*was, *now} if was.get(name) != now.get(name))
        if moved:
            shown = [f"{name} {was.get(name, '-')} -> {now.get(name, '-')}" for name in moved[:3]]
            more = f" and {len(moved) - 3} more" if len(moved) > 3 else ""
            yield f"wheels {', '.join(shown)}{more}"
        yield from _made(before.environment, after.environment)
    if before.repository != after.repository:
        yield f"repository {after.repository.url if after.repository else 'none'}"


def _made(before: TorchEnvironment, after: TorchEnvironment) -> Iterator[str]:
    """How an environment is made, where its wheels may all be the same."""
    if before.kind != after.kind:
        yield f"environment made by {before.kind} -> {after.kind}"
    builds = [one.managed_python.url if one.managed_python else "" for one in (before, after)]
    if all(builds) and builds[0] != builds[1]:
        yield f"Python build {builds[0]} -> {builds[1]}"
    if before.uv and after.uv and before.uv != after.uv:
        yield f"uv {before.uv} -> {after.uv}"


def _packages(stack: Stack) -> dict[str, str]:
    found = {
        name: pin.version for _, part in stack.components for name, pin in part.packages.items()
    }
    if stack.driver:
        both = {**stack.driver.pinning, **stack.driver.packages}
        found |= {name: pin.version for name, pin in both.items()}
    return found


def _wheels(stack: Stack) -> dict[str, str]:
    if stack.environment is None:
        return {}
    pinned = (line.split(" ", 1)[0] for line in stack.environment.requirements)
    return dict(pin.split("==", 1) for pin in pinned)


def without(solutions: Mapping[str, Solution], new: Lock) -> list[str]:
    """Hosts that got no answer, with the reason and what would change it; equal ones together."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, solution in solutions.items():
        blocked = solution.blocked
        if blocked is None:
            continue
        kept = (f"stays as it was locked ({new.hosts[name].stack})",) if name in new.hosts else ()
        text = (
            f"{blocked.reason} [{blocked.rule}]",
            *kept,
            *(f"-> {way}" for way in blocked.unblock),
        )
        groups.setdefault(text, []).append(name)
    return [
        line
        for text, names in groups.items()
        for line in (f"{fold(names)}: {text[0]}", *(f"    {part}" for part in text[1:]))
    ]


def warnings(solutions: Mapping[str, Solution]) -> list[str]:
    """Every warning once, with its hosts."""
    groups: dict[str, list[str]] = {}
    for name, solution in solutions.items():
        for warning in solution.warnings:
            groups.setdefault(warning, []).append(name)
    return [f"{fold(names)}: {warning}" for warning, names in groups.items()]
