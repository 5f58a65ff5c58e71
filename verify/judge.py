"""What the answers come to: a verdict and an action per host, one exit code. Pure."""

from collections.abc import Iterable
from typing import get_args

from deploy.fleet import exits
from verify.results import (
    Action,
    CheckResult,
    Finding,
    HostResult,
    HostVerdict,
    HostVerification,
    Part,
)
from verify.runner import Answer

WORST_LAST: tuple[HostVerdict, ...] = get_args(HostVerdict)
HARDEST_LAST: tuple[Action, ...] = get_args(Action)


def judge(answer: Answer) -> HostVerification:
    """The verdict is the worst of the checks, the action the hardest of the findings that count.

    A host that hangs takes no new jobs until somebody has looked at it; of one that cannot be
    reached or asked nothing is known, so nothing is advised. One with nothing but waived findings
    is degraded: what is accepted does not hold for that.
    """
    if answer.result is None:
        return HostVerification(
            host=answer.host,
            verdict=answer.silence,
            action="drain" if answer.silence == "hung" else "keep",
            message=answer.message,
            notes=answer.notes,
            result=None,
        )
    first = _first(answer.result)
    return HostVerification(
        host=answer.host,
        verdict=verdict(answer.result),
        action=max(
            (one.action for _, one in findings(answer.result) if one.waived is None),
            key=HARDEST_LAST.index,
            default="keep",
        ),
        message=_line(*first) if first else _nothing(answer.result),
        notes=answer.notes,
        result=answer.result,
    )


def verdict(result: HostResult) -> HostVerdict:
    """The worst verdict of what was asked; not-asked where nothing applied: no pass, no fault."""
    verdicts: list[HostVerdict] = [check.verdict for check in result.checks]
    return max(verdicts, key=WORST_LAST.index, default="not-asked")


def findings(result: HostResult) -> list[tuple[CheckResult, Finding]]:
    """Every finding with its check."""
    return [(check, one) for check in result.checks for one in check.findings]


def exit_code(hosts: Iterable[HostVerification], *, strict: bool) -> int:
    """By the meaning of exit codes (deploy.fleet.exits): a fault beats what is unknown.

    A host that does not answer and is excused (its scheduler has it out of service) counts for
    nothing; with `strict` everything degraded counts but what is waived.
    """
    counting = [one for one in hosts if one.result is not None or not one.excused]
    seen = {one.verdict for one in counting}
    if seen & {"fail", "hung"} or (strict and any(map(_degraded, counting))):
        return exits.FAILED
    return exits.NOT_LOOKED_AT if seen & {"not-run", "unreachable"} else exits.OK


def _degraded(one: HostVerification) -> bool:
    """Something is degraded there that nobody has waived."""
    each = findings(one.result) if one.result is not None else []
    return any(found.verdict == "degraded" and found.waived is None for _, found in each)


def _first(result: HostResult) -> tuple[CheckResult, Finding] | None:
    """The finding to begin with: a cause before its consequences, the hardest action first."""
    return max(
        (pair for pair in findings(result) if pair[1].waived is None),
        key=lambda pair: (
            not pair[1].because,
            HARDEST_LAST.index(pair[1].action),
            WORST_LAST.index(pair[1].verdict),
        ),
        default=None,
    )


def _line(check: CheckResult, one: Finding) -> str:
    wanted = f", expected {one.expected}" if one.expected else ""
    where = _named(one.component)
    return f"{check.id}: {where}{one.what}: found {one.found}{wanted}"


def _named(part: Part) -> str:
    if part.kind == "host":
        return ""
    name = part.index if part.kind in ("gpu", "rank") and part.index is not None else part.name
    return f"{part.kind} {name}: " if name != "" else f"{part.kind}: "


def _nothing(result: HostResult) -> str:
    """Of a host without a finding that counts."""
    waived = len(findings(result))
    if waived:
        return f"{waived} waived finding{'' if waived == 1 else 's'}"
    return "" if result.checks else "nothing that was asked applies to this host"
