"""What a host printed, read as the one document that was asked for. Pure, and trusts nothing.

Whatever is wrong with an answer concerns its host alone: `BadAnswer` says what, with a bounded
excerpt that no terminal obeys.
"""

from collections import Counter

from pydantic import ValidationError

from deploy.fleet.runs import printable
from verify.checks import MARK, VERDICTS
from verify.results import CheckResult, HostResult, Request

MOST_BYTES = 4_000_000
"""What a host may print in all. A full answer of 8 GPUs is below 100 kB."""
MOST_EXCERPT = 120
MOST_NAMED = 4


class BadAnswer(Exception):  # noqa: N818 - reads as what it is at every raise
    """The answer cannot be used; the message says why, without the host's name."""


def read(
    output: str, request: Request, bundle: str, *, asked: set[str], known: set[str]
) -> HostResult:
    """The document in what a host printed. Raises BadAnswer.

    Lines that are not the answer (a login banner) are ignored. `asked` are the ids of the checks
    that the request means: each must be there, as looked at or as not asked with its reason; of
    the others in `known` nothing may be there but why they are not asked.
    """
    result = _parse(_line(output))
    for name, found, expected in (
        ("nonce", result.nonce, request.nonce),
        ("host", result.host, request.host),
        ("level", result.level, request.level),
        ("bundle", result.bundle, bundle),
    ):
        if found != expected:
            raise BadAnswer(
                f"it is the answer to another question: {name} is {_excerpt(found)}, "
                f"wanted {expected}"
            )
    _complete(result, asked, known)
    for check in result.checks:
        _consistent(check)
    return result


def _line(output: str) -> str:
    lines = [line for line in output.splitlines() if line.startswith(MARK)]
    if not lines:
        said = output.strip()
        last = f"; it printed {_excerpt(said[-MOST_EXCERPT:])}" if said else ""
        raise BadAnswer(f"no line of its output is an answer{last}")
    if len(lines) > 1:
        raise BadAnswer(f"it gave {len(lines)} answers, wanted one")
    return lines[0][len(MARK) :]


def _parse(text: str) -> HostResult:
    try:
        return HostResult.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"it cannot be read: {_excerpt(str(error))}") from None
    if first["type"] == "json_invalid":
        raise BadAnswer(f"it is no JSON ({_excerpt(first['msg'])}): {_excerpt(text)}")
    where = ".".join(str(part) for part in first["loc"])
    found = _excerpt(repr(first["input"]))
    raise BadAnswer(f"{_excerpt(where)}: {_excerpt(first['msg'])}; found {found}")


def _complete(result: HostResult, asked: set[str], known: set[str]) -> None:
    count = Counter([one.id for one in result.checks] + [one.id for one in result.not_asked])
    twice = [id for id, times in count.items() if times > 1]
    if twice:
        raise BadAnswer(f"it answers twice to {_some(twice)}")
    if lacking := asked - count.keys():
        raise BadAnswer(f"it says nothing of {_some(lacking)}")
    strange = {one.id for one in result.checks} - asked
    if strange := strange | (count.keys() - known):
        raise BadAnswer(f"it answers what was not asked: {_some(strange)}")


def _consistent(check: CheckResult) -> None:
    """A verdict is the worst of the findings, and only something looked at can be a pass."""
    worst = max((finding.verdict for finding in check.findings), key=VERDICTS.index, default="pass")
    if check.verdict != worst:
        raise BadAnswer(f"{check.id} is said to be {check.verdict}, and its findings say {worst}")
    if check.verdict == "pass" and check.looked_at < 1:
        raise BadAnswer(f"{check.id} is said to pass, and looked at nothing")
    if any(one.waived or one.others for one in check.findings):
        raise BadAnswer(f"{check.id} says what only the controller may: waived, or other baselines")


def _some(ids: set[str] | list[str]) -> str:
    named = sorted(ids)
    more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    return ", ".join(named[:MOST_NAMED]) + more


def _excerpt(text: str) -> str:
    text = " ".join(printable(text).split())
    return text if len(text) <= MOST_EXCERPT else text[: MOST_EXCERPT - 3] + "..."
