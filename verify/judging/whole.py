"""A whole run judged: what the fleet's checks come to on every host. Pure.

Hosts that did not answer are not here: the others are judged without them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from verify.applies import of_level
from verify.checks import VERDICTS, Check
from verify.judging.claims import CLAIMS, FINGERPRINT, VERSIONS
from verify.judging.figure import OF, TRAINING, figures_of, missing, of_gpu
from verify.judging.perf import FleetFigures, HostFigures, Margin, of_claim
from verify.judging.saying import Confirmed, confirm, findings, unconfirmed
from verify.judging.votes import Verdicts, fingerprints, versions
from verify.results import CheckResult, Finding, HostResult, Level, NotAsked, Part

FIGURES = tuple(dict.fromkeys(claim for claim, _ in OF.values()))
OF_GPUS = ("perf.compute", "perf.memory", "perf.host-link")
"""Claims of which every GPU has figures, when one has."""
BY_PAIRS = ("perf.peer", "perf.collectives")
"""Claims that one GPU alone has no figures of."""
MOST_INFORMATION = 50


def measures(claim: str, ids: Iterable[str]) -> frozenset[str]:
    """Of these checks on hosts those that take the figures of a claim."""
    family = "train." if claim == TRAINING else "bench."
    return frozenset(id for id in ids if id.startswith(family))


def needed(fleetwide: Iterable[str], ids: Iterable[str]) -> frozenset[str]:
    """Checks among `ids` that hosts must be asked for the fleet's checks to have anything."""
    every = frozenset(ids)
    found: set[str] = set()
    for claim in fleetwide:
        if claim in FIGURES or claim == FINGERPRINT:
            found |= measures(claim, every)
        elif claim == VERSIONS:
            found |= every & {"nvml.answers"}
    return frozenset(found)


@dataclass(frozen=True)
class Again:
    """What came of asking a suspect a second time."""

    result: HostResult | None = None
    why: str = ""
    """Why there is no result."""


@dataclass
class Whole:
    """All answers of a run, judged together once."""

    results: Mapping[str, HostResult]
    wanted: frozenset[str]
    """Ids of the fleet's checks that are asked."""
    margin: Margin
    figures: FleetFigures = field(init=False)
    votes: dict[str, dict[str, Verdicts]] = field(init=False)

    def __post_init__(self) -> None:
        self.figures = FleetFigures(self.results if self.wanted & set(FIGURES) else {}, self.margin)
        self.votes = {}
        if FINGERPRINT in self.wanted:
            self.votes[FINGERPRINT] = fingerprints(self.results)
        if VERSIONS in self.wanted:
            self.votes[VERSIONS] = versions(self.results)

    def suspects(self) -> dict[str, frozenset[str]]:
        """Host -> the checks that measure what is suspected there."""
        found: dict[str, frozenset[str]] = {}
        for name, figures in self.figures.hosts.items():
            claims = {
                one.figure.claim
                for one in figures.judged
                if unconfirmed(one) and one.figure.claim in self.wanted
            }
            ids = [check.id for check in self.results[name].checks]
            if claims:
                found[name] = frozenset().union(*(measures(claim, ids) for claim in claims))
        return {name: ids for name, ids in found.items() if ids}

    def judged(self, again: Mapping[str, Again]) -> dict[str, HostResult]:
        """Every result with what the fleet's checks came to on it."""
        return {name: self._host(name, result, again) for name, result in self.results.items()}

    def _host(self, name: str, result: HostResult, again: Mapping[str, Again]) -> HostResult:
        checks: list[CheckResult] = []
        not_asked: list[NotAsked] = []
        seconds = self._second(again.get(name))
        for check in CLAIMS:
            if check.id not in self.wanted:
                continue
            if not of_level(check.level, result.level):
                came = f"level {check.level} asks it; this is {result.level}"
                not_asked.append(NotAsked(id=check.id, reason=came))
                continue
            if check.id in self.votes:
                came_to = _voted(check, self.votes[check.id][name])
            else:
                came_to = self._figures(check, result, seconds, again.get(name))
            (checks if isinstance(came_to, CheckResult) else not_asked).append(came_to)  # type: ignore[arg-type]
        told = self.figures.hosts[name].information if name in self.figures.hosts else ""
        return result.model_copy(
            update={
                "checks": (*result.checks, *checks),
                "not_asked": (*result.not_asked, *not_asked),
                "information": ((told,) * bool(told) + result.information)[:MOST_INFORMATION],
                # What was compared is told; the figures themselves lie in the run they are of.
                "past": result.past and result.past.model_copy(update={"measurements": ()}),
            }
        )

    def _second(self, again: Again | None) -> dict[object, Confirmed]:
        """Figures of a second measurement by what tells them apart, judged by equal baselines."""
        if again is None or again.result is None:
            return {}
        found: dict[object, Confirmed] = {}
        for figure in figures_of(again.result)[0]:
            judged = self.figures.judge(figure)
            if judged is not None:
                found[figure.own] = Confirmed(judged, judged.verdict)
        return found

    def _figures(
        self,
        check: Check,
        result: HostResult,
        seconds: Mapping[object, Confirmed],
        again: Again | None,
    ) -> CheckResult | NotAsked:
        mine = self.figures.hosts[result.host]
        judged = of_claim(check.id, mine.judged)
        lacking = _lacking(check.id, result, mine)
        bad = [finding for claim, finding in mine.bad if claim == check.id]
        unjudged = [figure for figure in mine.unjudged if figure.claim == check.id]
        if not judged and not lacking and not bad:
            if unjudged:
                return NotAsked(id=check.id, reason=self.figures.why_unjudged(unjudged[0]))
            return NotAsked(id=check.id, reason=_nothing(check.id, result))
        why = again.why if again is not None else "it was not asked again"
        every = []
        for one in judged:
            second = seconds.get(one.figure.own)
            no_figure = why or "the second answer has no such figure"
            every.append(confirm(one, second.judged if second else None, no_figure))
        found = [*findings(every, result.gpus, check.action), *bad, *lacking]
        return _came_to(check, found, len(judged) + len(bad) + len(lacking))


def _came_to(check: Check, found: list[Finding], looked_at: int) -> CheckResult:
    verdict = max((one.verdict for one in found), key=VERDICTS.index, default="pass")
    level: Level = "quick" if check.level == "quick" else "standard"
    return CheckResult(
        id=check.id,
        claim=check.claim,
        level=level,
        verdict=verdict,
        seconds=0.0,
        looked_at=looked_at,
        findings=tuple(found[:1000]),
    )


def _voted(check: Check, came: Verdicts) -> CheckResult | NotAsked:
    if came.looked_at:
        return _came_to(check, came.findings, came.looked_at)
    alone = "nothing equal to it is in this run that it could be held against"
    none = "this host told nothing of the kind"
    return NotAsked(id=check.id, reason=alone if came.alone else none)


def _lacking(claim: str, result: HostResult, mine: HostFigures) -> list[Finding]:
    """Figures that were asked for and are not there: never a pass."""
    mine_ids = measures(claim, (check.id for check in result.checks))
    if not mine_ids:
        return []
    there = [one.figure for one in mine.judged] + mine.unjudged
    have = [figure for figure in there if figure.claim == claim]
    told = {finding.component for of, finding in mine.bad if of == claim}
    troubled = [
        check.id for check in result.checks if check.id in mine_ids and check.verdict != "pass"
    ]
    because = troubled[0] if troubled else ""
    why = "it was asked for and no figure came"
    if not have:
        on_cpu = any(figure.on_cpu for figure in there) or not result.gpus
        few = claim in BY_PAIRS and (on_cpu or len(result.gpus) < 2)
        if told or ((few or (on_cpu and claim in OF_GPUS)) and not troubled):
            return []
        return [missing(Part(), "figures of " + claim.partition(".")[2], why, because)]
    if claim not in OF_GPUS or any(figure.on_cpu for figure in have):
        return []
    with_one = {figure.part.uuid or figure.part.index for figure in have}
    with_one |= {part.uuid or part.index for part in told}
    return [
        missing(of_gpu(gpu), "figures of " + claim.partition(".")[2], why, because)
        for gpu in result.gpus
        if (gpu.uuid or gpu.index) not in with_one
    ]


def _nothing(claim: str, result: HostResult) -> str:
    ids = measures(claim, (one.id for one in result.not_asked))
    reasons = [one.reason for one in result.not_asked if one.id in ids]
    if reasons:
        return max(dict.fromkeys(reasons), key=reasons.count)
    asked = measures(claim, (check.id for check in result.checks))
    return "there is nothing of the kind on this host" if asked else "nothing measures it here"
