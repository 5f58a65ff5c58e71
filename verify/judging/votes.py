"""Votes among equal parts: fingerprints that all must share, and versions that all should. Pure.

Only a majority, more than half of the voters, can name the others. Without one nobody knows who is
right, and all are named.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from deploy.fleet.names import fold
from verify.judging.figure import of_gpu
from verify.results import Finding, Gpu, HostResult, Part

LEAST = 2
WITHIN_HOST = "bench.agrees"
"""The check that holds the GPUs of one host against each other, there."""
"""Voters that make a vote."""
FIRMWARE = {
    "vbios": "VBIOS",
    "gsp": "GSP firmware",
    "inforom_image": "infoROM image",
    "inforom_ecc": "infoROM of ECC",
}
"""Key of a GPU's board -> name."""
SOFTWARE = {"driver": "driver", "torch": "torch", "cuda": "CUDA of torch", "nccl": "NCCL"}
"""Key of a host's software -> name."""
MOST_VERSIONS = 4


@dataclass(frozen=True)
class Ballot:
    """What one part has, of all that are to have the same."""

    host: str
    part: Part
    value: str


@dataclass
class Verdicts:
    """What the votes come to for one host."""

    findings: list[Finding]
    looked_at: int = 0
    """Ballots of this host that had others to be held against."""
    alone: int = 0
    """Ballots that had none."""


def fingerprints(results: Mapping[str, HostResult]) -> dict[str, Verdicts]:
    """Every host's prints held against those of equal parts anywhere, its own included.

    There is no noise in a fingerprint: a part that differs has computed wrongly, so nothing is
    measured a second time. One that says two things has done so at least once.
    """
    found = {name: Verdicts([]) for name in results}
    cast: dict[tuple[str, str], list[Ballot]] = defaultdict(list)
    for name, result in results.items():
        own: dict[tuple[str, str, Part], set[str]] = defaultdict(set)
        for one in result.prints:
            own[one.key, one.name, one.component].add(one.value)
        for (key, what, part), values in own.items():
            if len(values) > 1:
                verdicts = found[name]
                verdicts.looked_at += 1
                said = f"{len(values)} different results of one computation"
                verdicts.findings.append(
                    _differs(part, "fail", f"fingerprint {what}", said, "one result", "service", [])
                )
            else:
                cast[key, what].append(Ballot(name, part, values.pop()))
    for (_, what), ballots in cast.items():
        _count(ballots, f"fingerprint {what}", ("fail", "service"), found)
    for name, result in results.items():
        known = {
            finding.component
            for check in result.checks
            if check.id == WITHIN_HOST
            for finding in check.findings
        }
        found[name].findings = [
            one.model_copy(update={"because": WITHIN_HOST}) if one.component in known else one
            for one in found[name].findings
        ]
    return found


def versions(results: Mapping[str, HostResult]) -> dict[str, Verdicts]:
    """Every host's and GPU's versions held against those of equal ones.

    Equal are GPUs of one product and board; for software, hosts with the same GPUs that the lock
    does not want apart.
    """
    found = {name: Verdicts([]) for name in results}
    cast: dict[tuple[str, ...], list[Ballot]] = defaultdict(list)
    for name, result in results.items():
        for gpu in result.gpus:
            for key in FIRMWARE.keys() & gpu.board.keys():
                board = gpu.board.get("board_part", "")
                cast["gpu", key, gpu.name, board].append(Ballot(name, of_gpu(gpu), gpu.board[key]))
        wanted = result.stack if result.expected_from == "lock" else ""
        for key in SOFTWARE.keys() & result.software.keys() if result.gpus else ():
            part = Part(kind="driver" if key == "driver" else "environment", name=key)
            cast["host", key, _products(result.gpus), wanted].append(
                Ballot(name, part, result.software[key])
            )
    for (kind, key, *_), ballots in cast.items():
        what = f"version of the {(FIRMWARE if kind == 'gpu' else SOFTWARE)[key]}"
        _count(ballots, what, ("degraded", "keep"), found)
    return found


def _products(gpus: Iterable[Gpu]) -> str:
    return ", ".join(sorted({gpu.name for gpu in gpus}))


def _count(
    ballots: list[Ballot],
    what: str,
    wrong: tuple[Literal["fail", "degraded"], Literal["service", "keep"]],
    found: dict[str, Verdicts],
) -> None:
    if len(ballots) < LEAST:
        for one in ballots:
            found[one.host].alone += 1
        return
    for one in ballots:
        found[one.host].looked_at += 1
    count = Counter(one.value for one in ballots)
    if len(count) == 1:
        return
    most, votes = count.most_common(1)[0]
    told = [f"{number} of {len(ballots)} have {value}" for value, number in count.most_common()]
    evidence = [*told[:MOST_VERSIONS], _where(ballots, most)]
    if votes * 2 > len(ballots):
        verdict, action = wrong
        expected = f"{most}, as {votes} of {len(ballots)} equal ones"
        named = [one for one in ballots if one.value != most]
    else:
        verdict, action = "degraded", "keep"
        expected = f"one for all {len(ballots)} equal ones: there is no majority"
        named = ballots
    for one in named:
        found[one.host].findings.append(
            _differs(one.part, verdict, what, one.value, expected, action, evidence)
        )


def _where(ballots: list[Ballot], most: str) -> str:
    hosts = fold(dict.fromkeys(one.host for one in ballots if one.value != most))
    return f"others than {most}: {hosts}"[:400]


def _differs(
    part: Part,
    verdict: Literal["fail", "degraded"],
    what: str,
    found: str,
    expected: str,
    action: Literal["service", "keep"],
    evidence: list[str],
) -> Finding:
    return Finding(
        component=part,
        verdict=verdict,
        what=what[:1000],
        found=found[:1000],
        expected=expected[:1000],
        action=action,
        baseline="neighbours",
        evidence=tuple(evidence),
    )
