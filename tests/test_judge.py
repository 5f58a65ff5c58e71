"""Verdicts of hosts from their checks, and the exit code of a run."""

from typing import Any

import pytest

from tests.answers import BUNDLE, KNOWN, QUICK, answer, checked, finding, printed, request
from verify.answer import read
from verify.judge import exit_code, judge
from verify.results import HostResult
from verify.runner import Answer


def result(*checks: dict[str, Any], **changed: Any) -> HostResult:
    text = printed(answer(*checks, **changed))
    return read(text, request(), BUNDLE, asked=set(QUICK), known=set(KNOWN))


@pytest.mark.parametrize(
    ("seen", "verdict", "action"),
    [
        ([], "pass", "keep"),
        ([("degraded", "drain")], "degraded", "drain"),
        ([("degraded", "keep"), ("not-run", "keep")], "not-run", "keep"),
        ([("not-run", "keep"), ("hung", "reboot")], "hung", "reboot"),
        ([("hung", "reboot"), ("fail", "drain")], "fail", "reboot"),
        ([("fail", "reset"), ("degraded", "service")], "fail", "service"),
    ],
)
def test_the_verdict_is_the_worst_and_the_action_the_hardest(
    seen: list[tuple[str, str]], verdict: str, action: str
) -> None:
    checks = [
        checked(id, finding(found, what))
        for id, (found, what) in zip(("gpu.count", "gpu.ecc"), seen, strict=False)
    ]
    one = judge(Answer("gpu1", result(*checks), notes=("pushed",)))
    assert (one.verdict, one.action, one.notes) == (verdict, action, ("pushed",))


def test_the_message_is_the_finding_to_begin_with() -> None:
    blind = finding("not-run", "keep", because="gpu.ecc")
    mild = finding("fail", "drain", component={"kind": "service", "name": "x"})
    one = judge(
        Answer(
            "gpu1",
            result(
                checked("gpu.count", blind),
                checked("host.disk", mild),
                checked("gpu.ecc", finding()),
            ),
        )
    )
    assert one.message == "gpu.ecc: gpu 3: uncorrectable errors: found 12, expected 0"
    assert judge(Answer("gpu1", result(checked("host.disk", mild)))).message.startswith(
        "host.disk: service x: "
    )
    whole = finding("not-run", "keep", component={"kind": "host"}, expected="", found="no root")
    assert judge(Answer("gpu1", result(checked("host.disk", whole)))).message == (
        "host.disk: uncorrectable errors: found no root"
    )


def test_a_host_to_which_nothing_applies_says_so() -> None:
    reasons = [{"id": id, "reason": "no GPU"} for id in sorted(QUICK)]
    one = judge(Answer("gpu1", result(checks=[], not_asked=reasons)))
    assert (one.verdict, one.message) == (
        "not-asked",
        "nothing that was asked applies to this host",
    )


@pytest.mark.parametrize(
    ("silence", "action"),
    [("unreachable", "keep"), ("not-run", "keep"), ("hung", "drain"), ("pass", "keep")],
)
def test_a_silent_host_keeps_its_reason(silence: Any, action: str) -> None:
    one = judge(Answer("gpu1", silence=silence, message="gpu1: why"))
    assert (one.verdict, one.action, one.message, one.result) == (
        silence,
        action,
        "gpu1: why",
        None,
    )


@pytest.mark.parametrize(
    ("verdicts", "strict", "code"),
    [
        ([], False, 0),
        (["pass", "degraded"], False, 0),
        (["pass", "degraded"], True, 1),
        (["pass", "fail", "unreachable"], False, 1),
        (["hung", "not-run"], False, 1),
        (["pass", "unreachable"], False, 4),
        (["pass", "not-asked"], True, 0),
        (["degraded", "not-run"], False, 4),
        (["degraded", "not-run"], True, 1),
    ],
)
def test_exit_codes(verdicts: list[Any], strict: bool, code: int) -> None:
    assert exit_code(verdicts, strict=strict) == code
