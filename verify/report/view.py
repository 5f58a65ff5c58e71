"""All that is shown of one verify run, and the figures of it. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import PurePath
from typing import get_args

from deploy.fleet import exits
from deploy.fleet.runs import RunFile
from verify.results import HostResult, HostVerdict, HostVerification

WORST_FIRST: tuple[HostVerdict, ...] = tuple(reversed(get_args(HostVerdict)))
GOOD: tuple[HostVerdict, ...] = ("pass", "not-asked")
"""Nothing is to be done about such a host."""
EXCUSED = "expected absent"
"""What a host is called that does not answer and has an excuse: it counts for nothing."""
MEANING = {
    exits.OK: "nothing failed, and all that was asked was looked at",
    exits.FAILED: "something failed or hung",
    exits.WRONG_INPUT: "wrong input, no host was looked at",
    exits.NOT_LOOKED_AT: "nothing failed, but something asked could not be looked at",
}
"""Of a verify run's exit code."""


@dataclass(frozen=True)
class View:
    """One verify run: its facts, and every host of it in the inventory's order."""

    run: RunFile
    place: str
    """The run directory, as a reader would type it."""
    hosts: Mapping[str, HostVerification]
    page: str = ""
    """The HTML page, "" when there is none."""

    @property
    def fleet(self) -> str:
        return PurePath(self.run.inventory).stem or self.run.id

    @property
    def results(self) -> list[HostResult]:
        """The documents of the hosts that answered."""
        return [one.result for one in self.hosts.values() if one.result is not None]

    @property
    def level(self) -> str:
        """The level that was asked."""
        levels = sorted({result.level for result in self.results})
        if levels:
            return "/".join(levels)
        words = self.run.command
        after = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--level"]
        return after[0] if after else "quick"

    @property
    def way(self) -> tuple[str, ...]:
        """Options of the run that say how training was started, to ask again in the same way."""
        words = self.run.command
        pairs = pairwise(words)
        return tuple(one for pair in pairs if pair[0] in ("--env", "--as", "--via") for one in pair)

    @property
    def simulated(self) -> list[str]:
        """Hosts whose hardware is simulated."""
        return [one.host for one in self.hosts.values() if one.result and one.result.simulated]

    @property
    def seconds(self) -> float | None:
        """How long the run took; None when it has no end, or no sensible one."""
        try:
            began, ended = map(datetime.fromisoformat, (self.run.started, self.run.ended))
            return max(0.0, (ended - began).total_seconds())
        except (ValueError, TypeError):
            return None


def tally(verdicts: Iterable[str]) -> dict[str, int]:
    """How many hosts have each verdict, worst first, those of none left out."""
    count = Counter(verdicts)
    known = {verdict: count.pop(verdict) for verdict in WORST_FIRST if verdict in count}
    return known | dict(sorted(count.items()))


def meaning(run: RunFile) -> str:
    """What the run's end means, in one sentence."""
    if run.state == "running":
        return "this run has no end: it is still going, or it was killed"
    if run.state == "interrupted" or run.exit is None:
        return "this run was interrupted: hosts without a result were not looked at"
    said = MEANING.get(run.exit, "no code of a verify run")
    if run.exit == exits.FAILED:
        said += " (or something is degraded, with --strict)" * ("--strict" in run.command)
    return f"exit {run.exit}: {said}"


def many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
