"""Whom the verify command asks: every host at once, or at level deep what runs apart from it."""

import argparse
import sys
from collections.abc import Iterator
from functools import partial

from deploy.fleet.inventory import Fleet
from deploy.fleet.names import fold
from deploy.fleet.runs import Run, printable
from verify import deep
from verify.bundle import Bundle
from verify.checks import LEVELS
from verify.commands import options
from verify.deep import Attended, Open, Told, Waits
from verify.multi.run import ask_across
from verify.report.read import Recorded, look, read_view
from verify.runner import Answer, Question, ask_all


def answers(fleet: Fleet, question: Question, record: Run) -> Iterator[Answer]:
    """Every host's answer. At level deep those of the hosts where it was started, as they end; with
    `question.detach` one look at each, and who still runs has an answer that says so."""
    if question.level == options.MULTI_NODE:
        yield from ask_across(fleet, question, record)
        return
    if question.level != LEVELS[-1]:
        yield from ask_all(fleet, question)
        return
    opened = deep.read_open(record.directory)
    if opened is None:
        silent, attended = deep.begin(fleet, question, record.directory)
        yield from silent
    else:
        attended = Attended(record.directory, question.bundle, opened)
        yield from _collected(fleet, record, opened)
    if attended.open.hosts and not question.detach:
        _tell(attended, "runs on")
    tell = partial(print, file=sys.stderr)
    try:
        yield from deep.attend(fleet, attended, wait=not question.detach, tell=tell)
    except KeyboardInterrupt:
        _tell(attended, "goes on on")
        raise


def _tell(attended: Attended, how: str) -> None:
    hosts, run = attended.open.hosts, attended.place.name
    print(
        f"level deep {how} {fold(hosts)}, whatever becomes of this command: "
        f"gpufleet status {run} collects it, gpufleet status {run} --stop ends it",
        file=sys.stderr,
    )


def _collected(fleet: Fleet, record: Run, opened: Open) -> Iterator[Answer]:
    """What earlier looks have brought, so that all hosts are judged together."""
    for name, one in read_view(look(record.directory)).hosts.items():
        if name in opened.hosts or name not in fleet.hosts:
            continue
        if one.result is not None:
            yield Answer(name, result=one.result, notes=one.notes)
        else:
            silence = one.verdict if one.verdict in ("unreachable", "hung") else "not-run"
            yield Answer(name, silence=silence, message=one.message, notes=one.notes)


def asked_again(found: Recorded) -> argparse.Namespace:
    """The options of a recorded verify run."""
    assert found.run is not None
    parser = argparse.ArgumentParser(prog="gpufleet verify")
    options.add_arguments(parser)
    arguments = parser.parse_args(list(found.run.command[2:]))
    arguments.detach, arguments.json = True, None
    return arguments


def end(fleet: Fleet, attended: Attended) -> list[str]:
    """Ask every open soak to end; what each host says."""
    return [
        f"{printable(answer.message) or answer.host}"
        for answer in deep.attend(fleet, attended, wait=False, stop=True)
    ]


def found_there(fleet: Fleet, bundle: Bundle, known: frozenset[str]) -> list[Open]:
    """The newest run of level deep on each host by its own record, whoever has started it: one for
    all hosts that were started together."""
    found: dict[str, Open] = {}
    for name, told in deep.newest(fleet, bundle):
        if not isinstance(told, Told) or not (told.run and told.nonce and told.bundle):
            why = told.message if isinstance(told, Answer) else f"{name}: no soak is known there"
            print(printable(why), file=sys.stderr)
            continue
        waits = Waits(nonce=told.nonce, prefix=fleet.hosts[name].spec.prefix)
        one = found.get(told.run) or Open(
            run=told.run,
            bundle=told.bundle,
            asked=tuple(sorted(known)),
            known=tuple(sorted(known)),
            minutes=told.minutes or 0,
            hosts={},
        )
        found[told.run] = one.model_copy(update={"hosts": {**one.hosts, name: waits}})
    return list(found.values())
