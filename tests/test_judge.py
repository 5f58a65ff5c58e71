"""Verdicts of hosts from their checks, and the exit code of a run."""

from typing import Any

import pytest

from deploy.fleet.spec import Waiver
from tests.answers import BUNDLE, KNOWN, QUICK, answer, checked, finding, printed, request
from verify.answer import read
from verify.judge import exit_code, judge
from verify.judging.waiving import notices, waive
from verify.results import HostResult, HostVerification, Waived
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
    assert exit_code([host(verdict) for verdict in verdicts], strict=strict) == code


def host(verdict: Any, excused: str = "") -> HostVerification:
    """A host that answered with a finding of that verdict, or did not answer at all."""
    if verdict == "unreachable" or excused:
        silent = judge(Answer("gpu1", silence=verdict, message="gpu1: why"))
        return silent.model_copy(update={"excused": excused})
    if verdict == "not-asked":
        reasons = [{"id": id, "reason": "no GPU"} for id in sorted(QUICK)]
        return judge(Answer("gpu1", result(checks=[], not_asked=reasons)))
    seen = [] if verdict == "pass" else [finding(verdict)]
    return judge(Answer("gpu1", result(checked("gpu.ecc", *seen))))


@pytest.mark.parametrize("silence", ["unreachable", "hung", "not-run"])
def test_an_excused_host_counts_for_nothing_while_it_is_silent(silence: str) -> None:
    away = host(silence, "Slurm has it DOWN: board in repair")
    assert exit_code([host("pass"), away], strict=True) == 0
    answered = host("fail").model_copy(update={"excused": "Slurm has it DRAINED"})
    assert exit_code([answered], strict=False) == 1


# ---- waivers


def waived(check: str = "gpu.ecc", **fields: Any) -> Waiver:
    values = {"owner": "ops", "reason": "ticket 4711", "until": "2026-12-31"}
    return Waiver(check=check, **{**values, **fields})


def judged(result: HostResult, *waivers: Waiver, today: str = "2026-11-22") -> HostVerification:
    return judge(Answer("gpu1", waive(result, waivers, today)))


def test_a_waived_finding_is_shown_and_does_not_count() -> None:
    one = judged(result(checked("gpu.ecc", finding())), waived())
    assert (one.verdict, one.action, one.message) == ("degraded", "keep", "1 waived finding")
    assert exit_code([one], strict=True) == 0
    assert one.result is not None
    (found,) = [each for check in one.result.checks for each in check.findings]
    assert found.waived == Waived(owner="ops", reason="ticket 4711", until="2026-12-31")
    assert (found.verdict, found.action) == ("fail", "service"), "what was found stays"


def test_beside_a_waived_finding_the_others_count() -> None:
    other = finding("degraded", "drain", component={"kind": "disk", "name": "/"})
    seen = result(checked("gpu.ecc", finding()), checked("host.disk", other))
    one = judged(seen, waived())
    assert (one.verdict, one.action) == ("degraded", "drain")
    assert one.message.startswith("host.disk: disk /: ")
    assert exit_code([one], strict=True) == 1


@pytest.mark.parametrize(
    ("waiver", "today"),
    [
        (waived(until="2026-11-21"), "2026-11-22"),
        (waived("gpu.count"), "2026-11-22"),
        (waived(gpu="2"), "2026-11-22"),
        (waived(gpu="GPU-00000000-0000-0000-0000-000000000000"), "2026-11-22"),
    ],
)
def test_what_does_not_cover_a_finding_changes_nothing(waiver: Waiver, today: str) -> None:
    seen = result(checked("gpu.ecc", finding()))
    assert waive(seen, [waiver], today) == seen


def test_a_waiver_holds_on_its_last_day_and_for_its_gpu() -> None:
    seen = result(checked("gpu.ecc", finding()))
    assert judged(seen, waived(gpu="3"), today="2026-12-31").message == "1 waived finding"


@pytest.mark.parametrize("verdict", ["not-run", "hung"])
def test_what_was_not_looked_at_cannot_be_waived(verdict: str) -> None:
    seen = result(checked("gpu.ecc", finding(verdict)))
    assert judged(seen, waived()).verdict == verdict


def test_what_follows_from_a_waived_fault_goes_with_it_at_the_same_part_alone() -> None:
    blind = finding("not-run", "keep", because="gpu.ecc")
    seen = result(checked("gpu.ecc", finding()), checked("gpu.count", blind))
    assert judged(seen, waived()).message == "2 waived findings"
    other = {"kind": "gpu", "index": 5, "uuid": "GPU-5"}
    both = finding(component=other), finding()
    there = finding("not-run", "keep", because="gpu.ecc", component=other)
    seen = result(checked("gpu.ecc", *both), checked("gpu.count", there))
    assert judged(seen, waived(gpu="3")).verdict == "fail"
    seen = result(checked("gpu.ecc", finding()), checked("gpu.count", blind, there))
    assert judged(seen, waived(gpu="3")).message == "3 waived findings"


def test_waivers_that_are_not_applied_are_told() -> None:
    seen = result(checked("gpu.ecc", finding()))
    mine = {
        "gpu1": [
            waived("gpu.eccc"),
            waived(until="2026-01-01"),
            waived(gpu="7"),
            waived("gpu.count"),
            waived(),
        ]
    }
    after = {"gpu1": waive(seen, mine["gpu1"], "2026-11-22")}
    told = notices(mine, after, KNOWN, "2026-11-22")["gpu1"]
    said = "(ops, until 2026-12-31: ticket 4711)"
    assert told == [
        f"waiver of gpu.eccc {said} is not applied: there is no such check",
        "waiver of gpu.ecc (ops, until 2026-01-01: ticket 4711) is not applied: it has expired",
        f"waiver of gpu.ecc of GPU 7 {said} is not applied: this host has no such GPU",
        f"waiver of gpu.count {said} covers nothing: no such finding is there any more; take it "
        "out",
    ]


def test_a_waiver_of_a_whole_fleet_is_at_work_where_one_host_needs_it() -> None:
    bad, good = result(checked("gpu.ecc", finding())), result()
    mine = {"gpu1": [waived()], "gpu2": [waived()], "gpu3": [waived()]}
    after = {"gpu1": waive(bad, mine["gpu1"], "2026-11-22"), "gpu2": good}
    assert notices(mine, after, KNOWN, "2026-11-22") == {}
    without = {"gpu1": good, "gpu2": good}
    assert set(notices(mine, without, KNOWN, "2026-11-22")) == {"gpu1", "gpu2", "gpu3"}
    unasked = {"gpu1": result(checks=[], not_asked=[{"id": i, "reason": "-"} for i in QUICK])}
    assert notices({"gpu1": [waived()]}, unasked, KNOWN, "2026-11-22") == {}
