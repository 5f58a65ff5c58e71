"""Findings of many hosts folded: one group per check, verdict and action. Pure.

A consequence (a finding with `because`) goes to the cause that explains it, so that a reader sees
each cause once; one whose cause is not among the findings stands for itself.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import get_args

from deploy.fleet.names import fold
from verify.checks import MOST_EVIDENCE
from verify.judging.claims import LOGIN
from verify.report.view import GOOD, WORST_FIRST
from verify.results import (
    Action,
    Finding,
    HostResult,
    HostVerdict,
    HostVerification,
    Part,
    Waived,
)

HARDEST_FIRST: tuple[Action, ...] = tuple(reversed(get_args(Action)))
MOST_STEPS = 5
"""From a consequence to its cause."""


@dataclass(frozen=True)
class Case:
    """One thing that is wrong on one host."""

    host: str
    check: str
    """Id of the check; "" when the host gave no result."""
    claim: str
    verdict: HostVerdict
    action: Action
    component: Part
    what: str
    found: str
    expected: str = ""
    baseline: str = ""
    evidence: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    """What the other baselines say of the same figure."""
    waived: Waived | None = None
    silenced: tuple[str, ...] = ()
    """Ids of other checks that could not look because of it."""
    echoes: tuple[str, ...] = ()
    """Ids of other checks that saw something wrong because of it."""


@dataclass(frozen=True)
class Facet:
    """Cases of a group that read the same."""

    what: str
    found: str
    expected: str
    baseline: str
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Group:
    """What is wrong in one way, on one host or many."""

    check: str
    claim: str
    verdict: HostVerdict
    action: Action
    facets: tuple[Facet, ...]
    """The most common first."""

    @property
    def cases(self) -> list[Case]:
        return [case for facet in self.facets for case in facet.cases]

    @property
    def hosts(self) -> list[str]:
        return list(dict.fromkeys(case.host for case in self.cases))

    @property
    def silenced(self) -> list[str]:
        return sorted({id for case in self.cases for id in case.silenced})

    @property
    def echoes(self) -> list[str]:
        return sorted({id for case in self.cases for id in case.echoes})


def groups(hosts: Iterable[HostVerification]) -> list[Group]:
    """Everything that is wrong with the hosts; what to do first comes first."""
    found: dict[tuple[str, HostVerdict, Action], list[Case]] = defaultdict(list)
    for one in hosts:
        for case in cases(one):
            found[case.check, case.verdict, case.action].append(case)
    made = [
        Group(check, each[0].claim, verdict, action, _facets(each))
        for (check, verdict, action), each in found.items()
    ]
    return sorted(made, key=_urgency)


def cases(one: HostVerification) -> list[Case]:
    """The causes on one host that count, each with the checks that it silenced; of an excused one,
    none."""
    if one.result is None:
        return [_silent(one)] if one.verdict not in GOOD and not one.excused else []
    return _causes(one.host, one.result, waived=False)


def accepted(one: HostVerification) -> list[Case]:
    """The causes on one host that a waiver covers, with what follows from them."""
    return _causes(one.host, one.result, waived=True) if one.result is not None else []


def _causes(host: str, result: HostResult, *, waived: bool) -> list[Case]:
    claims = {check.id: check.claim for check in result.checks}
    every = [
        (check.id, each)
        for check in result.checks
        for each in check.findings
        if (each.waived is not None) == waived
    ]
    known = {check for check, each in every if not each.because}
    because = {check: each.because for check, each in every if each.because}
    causes: list[Case] = []
    behind: dict[str, list[tuple[str, Finding]]] = defaultdict(list)
    for check, each in every:
        root = _root(each.because, known, because)
        if root:
            behind[root].append((check, each))
        else:
            causes.append(_case(host, check, claims[check], each))
    for root, consequences in behind.items():
        places = [index for index, case in enumerate(causes) if case.check == root]
        for check, each in consequences:
            alike = [at for at in places if part_name(causes[at].component) == _of(each)]
            for at in alike[:1] or places[:1]:
                causes[at] = _with(causes[at], check, each)
    return causes


def _with(cause: Case, check: str, consequence: Finding) -> Case:
    """The cause with one more consequence; what its own check saw besides needs no name."""
    if check == cause.check or check in cause.silenced:
        return cause
    if consequence.verdict in ("not-run", "hung"):
        echoes = tuple(one for one in cause.echoes if one != check)
        return replace(cause, silenced=(*cause.silenced, check), echoes=echoes)
    # What another check saw of it is evidence: the Xid in the kernel log of a lost GPU.
    return replace(
        cause,
        echoes=tuple(dict.fromkeys((*cause.echoes, check))),
        evidence=tuple(dict.fromkeys((*cause.evidence, *consequence.evidence)))[:MOST_EVIDENCE],
    )


def part_name(part: Part) -> str:
    """A component as people say it: GPU 3, service nvidia-persistenced; "" for the host."""
    if part.kind == "gpu":
        if part.index is not None:
            return f"GPU {part.index}"
        return f"GPU at {part.slot}" if part.slot else "a GPU"
    if part.kind == "rank" and part.index is not None:
        return f"rank {part.index}"
    if part.kind == "host":
        return ""
    return f"{part.kind} {part.name}".strip()


def places(cases: Iterable[Case]) -> list[str]:
    """Where cases are, hosts with the same components folded: gpu[1-2]: GPU 3, GPU 4."""
    parts: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        parts[case.host].append(part_name(case.component))
    alike: dict[str, list[str]] = defaultdict(list)
    for host, names in parts.items():
        alike[", ".join(name for name in dict.fromkeys(names) if name)].append(host)
    return [f"{fold(names)}: {what}" if what else fold(names) for what, names in alike.items()]


def _root(because: str, known: set[str], chain: Mapping[str, str]) -> str:
    """The cause at the end of a chain of consequences, "" when it is not among the findings."""
    for _ in range(MOST_STEPS):
        if not because or because in known:
            return because
        because = chain.get(because, "")
    return ""


def _of(finding: Finding) -> str:
    return part_name(finding.component)


def _case(host: str, check: str, claim: str, one: Finding) -> Case:
    return Case(
        host=host,
        check=check,
        claim=claim,
        verdict=one.verdict,
        action=one.action,
        component=one.component,
        what=one.what,
        found=one.found,
        expected=one.expected,
        baseline=one.baseline,
        evidence=one.evidence,
        others=one.others,
        waived=one.waived,
    )


def _silent(one: HostVerification) -> Case:
    """A host that gave no result is a finding by itself."""
    far = one.verdict == "unreachable"
    return Case(
        host=one.host,
        check=LOGIN.id if far else "",
        claim=LOGIN.claim if far else "The host answers with a result.",
        verdict=one.verdict,
        action=one.action,
        component=Part(),
        what="login" if far else "result of the host",
        found=one.message.removeprefix(f"{one.host}: ") or "nothing was said",
    )


def _facets(cases: list[Case]) -> tuple[Facet, ...]:
    alike: dict[tuple[str, str, str, str], list[Case]] = defaultdict(list)
    for case in cases:
        alike[case.what, case.found, case.expected, case.baseline].append(case)
    made = [Facet(*key, tuple(each)) for key, each in alike.items()]
    return tuple(sorted(made, key=lambda facet: -len(facet.cases)))


def _urgency(group: Group) -> tuple[int, int, int, str]:
    """The hardest action first, then the worst verdict, then the most hosts."""
    return (
        HARDEST_FIRST.index(group.action),
        WORST_FIRST.index(group.verdict),
        -len(group.hosts),
        group.check,
    )
