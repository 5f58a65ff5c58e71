"""What one host's play looks like as text: short, and the same for the same plan."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from deploy import interest
from deploy.facts import NodeFacts
from deploy.layers.files import digest
from deploy.packages import locked
from deploy.stack import Packages, Stack
from tests.golden.scripts import blocks, parts, unquoted

WIDTH = 100


def golden(
    title: str, found: NodeFacts, stack: Stack, played: Mapping[str, Any], shown: dict[str, str]
) -> str:
    """The golden file of one host. `shown` are inputs that another file of its case shows in full,
    and that file; what is shown here for the first time is added by the caller."""
    lines = [f"{title}", *(f"    {line}" for line in was(found, stack)), ""]
    plan = played["plan"]
    if plan is None:
        raise AssertionError(f"{title}: pyinfra made no plan of it")
    lines += list(verdict(plan, played["outcome"]))
    commands, sets = list(played["executed"]), _sets(stack)
    for number, step in enumerate(plan["steps"], start=1):
        mark = "  (disruptive)" if step["disruptive"] else ""
        lines += ["", f"{number}. {step['layer']}: {step['title']}{mark}"]
        lines += _folded(f"why: {step['why']}", "   ")
        mine = (step["layer"], step["title"])
        while commands and (commands[0]["layer"], commands[0]["title"]) == mine:
            lines += [f"   {line}" for line in command(commands.pop(0), stack, sets, shown)]
    if commands:
        left = ", ".join(dict.fromkeys(f"{one['layer']}: {one['title']}" for one in commands))
        lines += ["", f"executed beyond the plan: {left}"]
    text = "\n".join(line.rstrip() for line in lines) + "\n"
    # Ids are digests of everything: named, they would change every file with every version.
    return text.replace(stack.id, "STACK")


def was(found: NodeFacts, stack: Stack) -> Iterator[str]:
    """What matters of the host before."""
    assert found.os is not None
    assert found.kernel is not None
    assert found.modules is not None
    boards: dict[str, int] = {}
    for one in found.pci or ():
        boards[one.device] = boards.get(one.device, 0) + 1
    hardware = ", ".join(f"{count} x 10de:{device}" for device, count in boards.items())
    yield f"{found.os.pretty_name}, {found.os.arch}, kernel {found.kernel.running}, {hardware}"
    if found.modules.loaded_version:
        yield f"module {found.modules.loaded_version} ({found.modules.loaded_flavour}) is loaded"
    for owner in found.foreign or ():
        yield f"foreign: {owner.owner}, {owner.evidence}"
    assert found.dpkg is not None
    if found.dpkg.interrupted:
        yield "dpkg's journal is not empty"
    packages = dict(found.packages or {})
    for short, pins in _parts_of(stack).items():
        mine = {name: packages.get(name) for name in pins}
        if all(
            one and one.version == pins[name].version and one.state == "ii" and not one.held
            for name, one in mine.items()
        ):
            yield f"{short}: as locked"
            packages = {name: one for name, one in packages.items() if name not in mine}
    versions: dict[tuple[str, str], list[str]] = {}
    for name, package in packages.items():
        state = "held" if package.held else {"ii": ""}.get(package.state, package.state)
        versions.setdefault((package.version, state), []).append(name)
    for (version, state), names in sorted(versions.items()):
        yield from _folded(
            f"{version}{f' ({state})' if state else ''}: {', '.join(sorted(names))}", ""
        )


def _parts_of(stack: Stack) -> dict[str, Packages]:
    parts: dict[str, Packages] = {}
    if stack.driver is not None:
        parts |= {"pinning": stack.driver.pinning} if stack.driver.pinning else {}
        parts["driver packages"] = stack.driver.packages
    return parts | {f"{name} packages": part.packages for name, part in stack.components}


def _folded(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def verdict(plan: Mapping[str, Any], outcome: Mapping[str, Any] | None) -> Iterator[str]:
    """What is decided, and how the run ended."""
    blocked = plan["blocked"]
    kind = "blocked" if blocked else "change" if plan["steps"] or plan["reboot"] else "keep"
    yield f"verdict: {kind}"
    if blocked:
        yield f"reason: {blocked['reason']}"
        yield f"rule: {blocked['rule']} ({blocked['source']})"
        yield from (f"to unblock: {way}" for way in blocked["unblock"])
    if plan["reboot"]:
        yield f"reboot: {plan['reboot']['why']}"
    yield from (f"warning: {text}" for text in plan["warnings"])
    if outcome is not None:
        yield f"ended: {outcome['status']}"
        if outcome["message"]:
            yield f"    {outcome['message']}"
        yield from (f"    {line}" for line in outcome["tail"])


def command(
    one: Mapping[str, str], stack: Stack, sets: dict[str, str], shown: dict[str, str]
) -> Iterator[str]:
    """One command: assignments and fixed texts by name on one line each run, then its input."""
    run: list[str] = []
    mark = "$"
    for line in [*_shell(parts(one["shell"]).text, sets, one["stdin"]), None]:
        if line is not None and _PLAIN.fullmatch(line):
            run.append(line)
            continue
        for folded in _folded("  ".join(run), "") if run else ():
            yield f"{mark} {folded}"
            mark = " "
        run = []
        if line is not None:
            for wrapped in _wrapped(line):
                yield f"{mark} {wrapped}"
                mark = " "
    if one["stdin"]:
        yield from (f"  | {line}" for line in _input(one["stdin"], stack, shown))


_PLAIN = re.compile(r"[a-z_A-Z]+=.*|<[a-z0-9_.]+>")
"""An assignment or a fixed text."""


def _sets(stack: Stack) -> dict[str, str]:
    """Lists of packages as commands write them, and what they are."""
    return {
        words: name
        for name, pins in (*_parts_of(stack).items(), ("every package of the lock", locked(stack)))
        for words in (_words(pins, "="), _words(pins, "-"))
        if len(pins) > 1
    }


def _shell(text: str, sets: dict[str, str], stdin: str) -> Iterator[str]:
    for line in filter(None, text.splitlines()):
        name, equals, value = line.partition("=")
        bare = unquoted(value)
        if bare in sets and equals:
            line = f"{name}=<{sets[bare]}>"
        elif name == "digest" and bare == digest(stdin):
            line = "digest=<of the input>"
        elif equals and bare in NAMED:
            line = f"{name}=<interest.{NAMED[bare]}>"
        for words, short in sets.items():
            line = line.replace(f" {words}", f" <{short}>")
        yield line


NAMED = {
    value: name.lower()
    for name, value in vars(interest).items()
    if name.isupper() and isinstance(value, str)
}
"""Long patterns by what they are called."""


def _words(pins: Packages, sign: str) -> str:
    """A list of packages with their versions, as commands of apt (=) and dnf (-) write it."""
    return " ".join(f"{name}{sign}{pin.version}" for name, pin in sorted(pins.items()))


def _wrapped(line: str) -> Iterator[str]:
    """Long lines broken between words; only for reading."""
    indent = line[: len(line) - len(line.lstrip())]
    words, current = line.split(), ""
    for word in words:
        if current and len(current) + len(word) + 1 > WIDTH:
            yield current + " \\"
            current = f"{indent}    {word}"
        else:
            current = f"{current} {word}" if current else f"{indent}{word}"
    yield current


@cache
def _fixed() -> dict[str, str]:
    return {text: name for name, text in blocks()}


def _input(text: str, stack: Stack, shown: dict[str, str]) -> Iterator[str]:
    key = stack.repository.key if stack.repository else None
    if key is not None and text.strip() == key.strip():
        yield "<the vendor's key>"
    elif text == stack.model_dump_json(indent=1) + "\n":
        yield "<the stack as JSON>"
    elif text.startswith("{"):
        yield "<the expected state as JSON>"
    elif text in (fixed := _fixed()):
        yield f"<{fixed[text]}>"
    elif text in shown:
        yield f"<as in {shown[text]}>"
    else:
        yield from text.splitlines()
