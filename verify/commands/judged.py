"""The end of a verify run: answers judged together, suspects asked again, good figures kept.

What is decided is decided in verify/judging/, pure; here hosts are asked for the two things that
it takes: a second measurement of what is suspected, and to keep the figures of a good run.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from gevent.lock import BoundedSemaphore

from deploy.fleet.inventory import Fleet, Host
from deploy.fleet.transport import Unreachable, connect, on_each
from verify import launch, thresholds
from verify.bundle import Bundle
from verify.checks import LEVELS
from verify.judge import judge
from verify.judging.figure import Figure
from verify.judging.waiving import notices, waive
from verify.judging.whole import Again, Whole
from verify.results import HostVerification
from verify.runner import CONNECT_S, LOGINS, Answer, Question, ask_all

KEEP_S = 20.0
"""Seconds that keeping a file may take on a host, login apart."""


@dataclass(frozen=True)
class Wanted:
    """What the controller judges by itself."""

    checks: frozenset[str]
    """Ids of the fleet's checks that are asked."""
    known: frozenset[str]
    """Ids of every check there is."""
    accept_figures: bool = False
    """Keep the figures of hosts that only lost speed against their own past."""


def judged(
    fleet: Fleet, question: Question, wanted: Wanted, answers: Iterable[Answer]
) -> list[HostVerification]:
    """The verdict of every host, from all their answers together."""
    every = list(answers)
    results = {one.host: one.result for one in every if one.result is not None}
    whole = Whole(results, wanted.checks, lambda host, figure: margin(fleet.hosts[host], figure))
    again = _again(fleet, question, whole.suspects())
    today = datetime.now(UTC).date().isoformat()
    waivers = {name: host.spec.waivers for name, host in fleet.hosts.items() if host.spec.waivers}
    after = {
        name: waive(result, waivers.get(name, ()), today)
        for name, result in whole.judged(again).items()
    }
    told = notices(waivers, after, wanted.known, today)
    found = []
    for one in every:
        result = after.get(one.host)
        fault = [f"its kept figures: {result.past_fault}"] if result and result.past_fault else []
        notes = (*one.notes, *fault, *told.get(one.host, ()))
        found.append(judge(replace(one, result=result, notes=notes)))
    return list(_kept(fleet, question, wanted, found))


def margin(host: Host, figure: Figure) -> float:
    """The least deviation that counts, as a part: the inventory's threshold, else ours."""
    return thresholds.value(f"{figure.claim}-percent", dict(host.spec.thresholds)) / 100


def _again(
    fleet: Fleet, question: Question, suspects: Mapping[str, frozenset[str]]
) -> dict[str, Again]:
    """A second measurement of suspects, by the checks that take the figures: once, and in time."""
    alike: dict[frozenset[str], list[str]] = defaultdict(list)
    for name, ids in suspects.items():
        alike[ids].append(name)
    found: dict[str, Again] = {}
    for ids, names in alike.items():
        some = replace(fleet, hosts={name: fleet.hosts[name] for name in names})
        asked = replace(question, level="standard", checks=tuple(sorted(ids)), asked=ids)
        for answer in ask_all(some, asked):
            why = "" if answer.result else answer.message or answer.silence
            found[answer.host] = Again(answer.result, why[:300])
    return found


# ---- good figures are kept by the hosts


def good(one: HostVerification, wanted: Wanted) -> bool:
    """Its figures are those to compare with from now on: nothing at all was found.

    Asked for, those of a host are too that only differ from its own past.
    """
    result = one.result
    if result is None or not result.measurements or result.level not in LEVELS[1:]:
        return False
    findings = [found for check in result.checks for found in check.findings]
    if wanted.accept_figures:
        findings = [found for found in findings if found.baseline != "history"]
        return not findings
    return one.verdict == "pass"


def _kept(
    fleet: Fleet, question: Question, wanted: Wanted, found: list[HostVerification]
) -> Iterator[HostVerification]:
    """Tell good hosts to keep their figures; a note where one could not."""
    whole = not question.checks and not question.env
    nonces = {
        one.host: one.result.nonce
        for one in found
        if whole and one.result is not None and good(one, wanted)
    }
    troubles = dict(keep_all(fleet, question.bundle, nonces))
    for one in found:
        trouble = troubles.get(one.host)
        note = (f"its figures were not kept: {trouble}",) if trouble else ()
        yield one.model_copy(update={"notes": (*one.notes, *note)}) if note else one


def keep_all(fleet: Fleet, bundle: Bundle, nonces: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Have hosts keep the figures of the runs with these nonces; yields what went wrong, or ""."""
    logins = BoundedSemaphore(LOGINS)

    def work(host: Host) -> str:
        try:
            with logins:
                connection = connect(host, CONNECT_S)
        except Unreachable as error:
            return str(error)
        try:
            nonce = launch.new_nonce()
            ran = connection.run_script(
                launch.script(
                    "keep",
                    id=bundle.id,
                    prefix=host.spec.prefix,
                    privileged=host.spec.privileged,
                    nonce=nonce,
                    limit_s=int(KEEP_S / 2),
                    request=json.dumps({"nonce": nonces[host.name], "prefix": host.spec.prefix}),
                ),
                timeout_s=KEEP_S,
                root=host.spec.privileged,
            )
        finally:
            connection.close()
        line = launch.said(ran.out, nonce)
        if line is not None and line.word == launch.KEPT:
            return ""
        last = [text for text in ran.err.splitlines() if text.startswith("past: ")]
        return last[-1] if last else ran.trouble or (line.text if line else "no answer")

    some = [host for name, host in fleet.hosts.items() if name in nonces]
    deadline = CONNECT_S * (2 + len(some) / LOGINS) + KEEP_S
    for name, result in on_each(some, work, deadline_s=deadline, at_once=max(1, len(some))):
        yield name, result if isinstance(result, str) else f"{type(result).__name__}: {result}"
