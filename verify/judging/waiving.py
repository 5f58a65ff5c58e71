"""Waivers of the inventory: which findings they cover, and what is wrong with the others. Pure.

A waiver speaks of a fault that was seen and is accepted: `fail` and `degraded`. What could not be
looked at (`not-run`, `hung`, a host that does not answer) is not known to be that fault, so nothing
waives it; only what could not be seen because of a waived fault, at the same part, goes with it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from deploy.fleet.spec import Waiver
from verify.checks import VERDICTS
from verify.results import CheckResult, Finding, HostResult, Part, Waived

SEEN = ("fail", "degraded")
MOST_STEPS = 5


def waive(result: HostResult, waivers: Iterable[Waiver], today: str) -> HostResult:
    """The result with every finding that a waiver covers on `today` (as 2026-12-31) marked.

    A check with nothing but waived findings is degraded at most: its claim does not hold.
    """
    valid = [one for one in waivers if one.until >= today]
    if not valid:
        return result
    waived: dict[tuple[str, int], Waived] = {}
    for check in result.checks:
        for number, finding in enumerate(check.findings):
            by = next((one for one in valid if covers(one, check.id, finding)), None)
            if by is not None:
                waived[check.id, number] = _mark(by)
    for _ in range(MOST_STEPS):
        if not _with_consequences(result, waived):
            break
    return result.model_copy(
        update={"checks": tuple(_marked(check, waived) for check in result.checks)}
    )


def covers(waiver: Waiver, check: str, finding: Finding) -> bool:
    """Whether a finding is what a waiver speaks of."""
    if waiver.check != check or finding.verdict not in SEEN or finding.because:
        return False
    return waiver.gpu is None or is_gpu(waiver.gpu, finding.component)


def is_gpu(named: str, part: Part) -> bool:
    """Whether a component is the GPU of that UUID or index; a rank is the GPU that it names."""
    if part.kind not in ("gpu", "rank"):
        return False
    return part.uuid == named if named.startswith("GPU-") else str(part.index) == named


def _mark(waiver: Waiver) -> Waived:
    return Waived(owner=waiver.owner, reason=waiver.reason, until=waiver.until)


def _with_consequences(result: HostResult, waived: dict[tuple[str, int], Waived]) -> bool:
    """Mark what follows from a waived cause at the same part; whether anything was marked."""
    marks: dict[str, list[tuple[Part, Waived | None]]] = defaultdict(list)
    for check in result.checks:
        for number, finding in enumerate(check.findings):
            marks[check.id].append((finding.component, waived.get((check.id, number))))
    before = len(waived)
    for check in result.checks:
        for number, finding in enumerate(check.findings):
            if (check.id, number) in waived or not finding.because:
                continue
            causes = marks.get(finding.because, [])
            here = [mark for part, mark in causes if _same(part, finding.component)] or [
                mark for _, mark in causes
            ]
            if here and all(here) and here[0] is not None:
                waived[check.id, number] = here[0]
    return len(waived) > before


def _same(one: Part, other: Part) -> bool:
    if one.uuid and other.uuid:
        return one.uuid == other.uuid
    return (one.kind, one.index, one.name, one.slot) == (
        other.kind,
        other.index,
        other.name,
        other.slot,
    )


def _marked(check: CheckResult, waived: Mapping[tuple[str, int], Waived]) -> CheckResult:
    if not any((check.id, number) in waived for number in range(len(check.findings))):
        return check
    findings = tuple(
        one.model_copy(update={"waived": waived.get((check.id, number))})
        for number, one in enumerate(check.findings)
    )
    counted = [one.verdict if one.waived is None else "degraded" for one in findings]
    verdict = max(counted, key=VERDICTS.index)
    return check.model_copy(update={"findings": findings, "verdict": verdict})


def notices(
    waivers: Mapping[str, Iterable[Waiver]],
    results: Mapping[str, HostResult],
    known: Iterable[str],
    today: str,
) -> dict[str, list[str]]:
    """Host -> what is wrong with its waivers: they are shown and not applied.

    `results` are those of `waive`. That a waiver covers nothing is said when it covers nothing on
    any host that has it, and its check was asked on all of them that answered.
    """
    ids = set(known)
    idle = _idle(waivers, results, today)
    found: dict[str, list[str]] = {}
    for host, mine in waivers.items():
        told = []
        for one in mine:
            why = _wrong(one, results.get(host), ids, today)
            if not why and one in idle:
                why = "covers nothing: no such finding is there any more; take it out"
            if why:
                told.append(f"waiver {name(one)} {why}")
        if told:
            found[host] = told
    return found


def name(waiver: Waiver) -> str:
    """A waiver as people say it."""
    at = f" of GPU {waiver.gpu}" if waiver.gpu is not None else ""
    return f"of {waiver.check}{at} ({waiver.owner}, until {waiver.until}: {waiver.reason})"


def _wrong(waiver: Waiver, result: HostResult | None, ids: set[str], today: str) -> str:
    if waiver.check not in ids:
        return "is not applied: there is no such check"
    if waiver.until < today:
        return "is not applied: it has expired"
    if result is None or waiver.gpu is None:
        return ""
    parts = [finding.component for check in result.checks for finding in check.findings]
    there = any(waiver.gpu in (gpu.uuid, str(gpu.index)) for gpu in result.gpus)
    if there or any(is_gpu(waiver.gpu, part) for part in parts):
        return ""
    return "is not applied: this host has no such GPU"


def _idle(
    waivers: Mapping[str, Iterable[Waiver]], results: Mapping[str, HostResult], today: str
) -> set[Waiver]:
    asked: dict[Waiver, list[bool]] = defaultdict(list)
    at_work: set[Waiver] = set()
    for host, mine in waivers.items():
        result = results.get(host)
        if result is None:
            continue
        checks = {check.id: check for check in result.checks}
        for one in mine:
            check = checks.get(one.check)
            asked[one].append(check is not None)
            if check is not None and any(
                each.waived == _mark(one) and (one.gpu is None or is_gpu(one.gpu, each.component))
                for each in check.findings
            ):
                at_work.add(one)
    return {one for one, there in asked.items() if all(there) and one.until >= today} - at_work
