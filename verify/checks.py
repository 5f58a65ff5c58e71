"""What a check is, and what it saw. Travels to the host: standard library only.

A check is a test function in testinfra's grammar that makes one claim. It says what it looked at
through a `Look`; its verdict is the worst of what was seen, and a check that saw nothing did not
run. Python 3.10 must do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., None])

LEVELS = ("quick", "standard", "deep")
"""Each level asks what the ones before it ask, and more."""
BY_NAME = ("workload", "multi-node")
"""What is no part of a level: asked only when it is asked for by name."""
KINDS = ("host", "gpu", "driver", "fabric", "network", "disk", "package", "service", "environment",
         "library", "training")  # fmt: skip
"""What a check is about, coarsely: the component that its findings name, or stand near."""
WHERE = ("host", "fleet")
"""Where a check is judged: on the host, or on the controller, over all hosts and their past."""
VERDICTS = ("pass", "degraded", "not-run", "hung", "fail")
"""From best to worst. Only a claim that was looked at and held is a pass."""
ACTIONS = ("keep", "drain", "reset", "reboot", "service")
"""What to do about a finding, from mild to hard: leave it in use; take no new jobs; reset the GPU;
reboot the host; have the part replaced."""
BASELINES = ("claim", "lock", "host", "file", "history", "physics", "neighbours")
"""Where an expectation comes from: the check's own claim (no Xid is a good Xid), the fleet's lock,
the host's own expected state, a file named by the user, the last good run of this host, physics
(clock, bus, link), equal neighbours."""
MARK = "GPUFLEET "
"""What the one line of an answer begins with. Payloads write it out: each stands alone."""
MOST_TEXT = 400
MOST_EVIDENCE = 12


@dataclass(frozen=True)
class Check:
    """One claim about a host, with the fault that it must catch."""

    id: str
    """As gpu.remap-pending: a family, a dot, the subject."""
    claim: str
    """The claim in one sentence: the first line of the test function's docstring."""
    level: str
    action: str
    """What to do when the claim does not hold, unless the observation says otherwise."""
    needs: tuple[str, ...]
    """What must be there for the question to make sense (names in verify/applies.py)."""
    source: str
    """Where the rule or figure comes from."""
    fault: str
    """The fault of the simulated fleet that turns it red, as KIND[:ARGUMENT]; tests apply it."""
    component: str = "host"
    """What it is about, one of KINDS."""
    verdict: str = "fail"
    """The worst that it says of a claim that was looked at and does not hold."""
    where: str = "host"
    """One of WHERE."""


def check(
    id: str,
    *,
    source: str = "",
    fault: str = "",
    component: str = "host",
    needs: Iterable[str] = (),
    action: str = "keep",
    level: str = "quick",
    verdict: str = "fail",
) -> Callable[[Function], Function]:
    """Make a test function a check. Raises AssertionError when its words are not ours."""
    assert level in LEVELS + BY_NAME, level
    assert action in ACTIONS, action
    assert component in KINDS, component
    assert verdict in VERDICTS[1:], verdict

    def mark(function: Function) -> Function:
        claim = (function.__doc__ or "").strip().partition("\n")[0]
        assert claim, f"{id}: a check says what it claims in its docstring"
        found = Check(id, claim, level, action, tuple(needs), source, fault, component, verdict)
        function.check = found  # type: ignore[attr-defined]
        return function

    return mark


@dataclass(frozen=True)
class Component:
    """The part of a host that an observation is about."""

    kind: str = "host"
    """host, gpu, driver, service, package, environment, disk, rank ..."""
    name: str = ""
    """What tells it from others of its kind: a unit, a package, a mount point, a product."""
    index: int | None = None
    """NVML's index, for a GPU."""
    uuid: str = ""
    serial: str = ""
    slot: str = ""
    """PCI address, as 0000:19:00.0."""


HOST = Component()


@dataclass(frozen=True)
class Observation:
    """One thing that was looked at, and whether the claim holds for it."""

    component: Component
    verdict: str
    what: str
    """What was looked at, as a noun phrase: "rows waiting to be remapped"."""
    found: str
    expected: str
    action: str
    baseline: str
    evidence: tuple[str, ...]
    """Lines that show it: of a log, of a command."""
    because: str
    """Id of the check whose finding explains this one, as on a lost GPU; "" for a cause."""


class Look:
    """Collects what one check sees: `at` for what was looked at, `unknown` for what was not."""

    def __init__(self, of: Check) -> None:
        self.check = of
        self.observations: list[Observation] = []

    def at(
        self,
        component: Component,
        what: str,
        *,
        found: object,
        expected: object,
        held: bool | None = None,
        verdict: str = "fail",
        action: str = "",
        baseline: str = "claim",
        evidence: Iterable[str] = (),
        because: str = "",
    ) -> bool:
        """Record one observation; returns whether the claim holds for it.

        `held` left out means `found == expected`. `verdict` is what it is when it does not hold,
        `because` then names the check whose finding explains it (Xid 79 of a GPU that is lost).
        """
        assert verdict in VERDICTS[1:], verdict
        assert baseline in BASELINES, baseline
        good = found == expected if held is None else held
        self._add(
            component,
            "pass" if good else verdict,
            what,
            found,
            expected,
            action="keep" if good else action or self.check.action,
            baseline=baseline,
            evidence=evidence,
            because="" if good else because,
        )
        return good

    def unknown(
        self,
        component: Component,
        what: str,
        *,
        why: str,
        because: str = "",
        hung: bool = False,
        evidence: Iterable[str] = (),
    ) -> None:
        """Record that something asked could not be looked at: never a pass.

        `because` names the check whose finding explains it; such consequences are folded in
        reports.
        """
        verdict = "hung" if hung else "not-run"
        action = self.check.action if hung else "keep"
        self._add(
            component, verdict, what, why, "", action=action, evidence=evidence, because=because
        )

    def _add(
        self,
        component: Component,
        verdict: str,
        what: str,
        found: object,
        expected: object,
        *,
        action: str,
        baseline: str = "claim",
        evidence: Iterable[str] = (),
        because: str = "",
    ) -> None:
        assert action in ACTIONS, action
        lines = [said(line) for line in evidence]
        self.observations.append(
            Observation(
                component=component,
                verdict=verdict,
                what=said(what),
                found=said(found),
                expected=said(expected),
                action=action,
                baseline=baseline,
                evidence=tuple(lines[:MOST_EVIDENCE]),
                because=because,
            )
        )

    @property
    def verdict(self) -> str:
        """The worst of what was seen; not-run when nothing was."""
        if not self.observations:
            return "not-run"
        return max((one.verdict for one in self.observations), key=VERDICTS.index)

    @property
    def findings(self) -> list[Observation]:
        """Observations for which the claim does not hold, or that could not be made."""
        return [one for one in self.observations if one.verdict != "pass"]

    def document(self) -> list[dict[str, Any]]:
        """Findings as plain values, for the result document."""
        return [asdict(one) for one in self.findings]


def said(value: object) -> str:
    """A value as text of bounded length, as it will stand in a report."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "nothing"
    if isinstance(value, list | tuple | set | frozenset):
        parts = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        text = ", ".join(said(part) for part in parts) or "nothing"
    else:
        text = str(value)
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 3] + "..."
