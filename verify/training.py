"""What the training proof answered, read as hostile data, and what may be concluded from it. Pure.

Travels to the host: standard library only, Python 3.10. The payload measures
(verify/payload/train_ddp.py); the bounds that its figures are held against are here.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

from verify.checks import MARK, Component
from verify.gpus import part

STAGES = (
    "start", "rendezvous", "collectives", "gradients", "transformer", "cnn", "libraries", "leave",
)  # fmt: skip
STATES = ("ended", "died", "raised", "hung", "lost")
MODELS = ("transformer", "cnn")
MOST_RANKS = 64
MOST_FRAMES = 5
MOST_ITEMS = 400
MOST_CHARACTERS = 4000
MOST_BYTES = 1_000_000
MOST_COUNT = 2**53

Document = dict[str, Any]


class Unusable(Exception):  # noqa: N818 - an answer, not a fault
    """There is no document of the training; the text says why. `hung`: it never came back."""

    def __init__(self, reason: str, hung: bool = False) -> None:
        super().__init__(reason)
        self.hung = hung


# ---- the form of the document; "?" behind a key: what a rank that did not get there leaves out

_FIGURE = (float, int, type(None))
_WRONG: Document = {
    "operation": str, "length": int, "turn": int, "elements": int, "index": int,
    "found": _FIGURE, "wanted": _FIGURE, "source": (int, type(None)),
}  # fmt: skip
MODEL: Document = {
    "parameters": int,
    "gradient": {
        "relative": _FIGURE, "norm": _FIGURE, "worst": str, "sums": [int], "ranks": int,
    },
    "loss": {"first": _FIGURE, "last": _FIGURE, "samples": int},
    "digest": str,
    "replayed": str,
    "throughput": {
        "unit": str, "together": float, "alone": float, "warm_up_steps": int, "steps": int,
    },
}  # fmt: skip
RANK: Document = {
    "rank": int,
    "pid": int,
    "state": str,
    "stage": str,
    "at": str,
    "steps": int,
    "inside": bool,
    "calls": int,
    "collective": str,
    "sequence": (int, type(None)),
    "stack": [str],
    "ended": bool,
    "gone": bool,
    "abandoned": bool,
    "code": (int, type(None)),
    "error": str,
    "others": bool,
    "stderr": str,
    "device": (
        {"kind": str, "index": (int, type(None)), "uuid": str, "name": str},
        type(None),
    ),
    "stages?": {str: float},
    "collectives?": {
        "compared": {str: int},
        "left_out": {str: str},
        "wrong_elements": int,
        "wrong": [_WRONG],
    },
    "gradients?": {
        "compared": int, "sent_wrong": int, "received_wrong": int, "first": str,
        "reference": str, "largest": int, "exact_below": int,
    },
    "transformer?": MODEL,
    "cnn?": MODEL,
    "libraries?": {str: str},
}  # fmt: skip
_RUN = {
    "user": str,
    "torch": str,
    "cuda": (str, type(None)),
    "backend": str,
    "device": str,
    "seed": int,
    "epsilon": float,
    "tasks": {str: {"choices": int, "entropy": float, "deviation": float}},
}
_FORM = {
    "schema": int,
    "launcher": str,
    "host": str,
    "world": int,
    "asked_device": str,
    "limit_s": float,
    "seconds": float,
    "perturbed": str,
    "run": (_RUN, {}),
    "ranks": [RANK],
}


def faults(value: Any, form: Any, where: str = "the document") -> list[str]:
    """What of a value from a host is not of this form, or too large; [] when all is."""
    if isinstance(form, tuple):
        tries = [faults(value, one, where) for one in form]
        return [] if [] in tries else tries[0]
    if isinstance(form, list):
        if not isinstance(value, list) or len(value) > MOST_ITEMS:
            return [f"{where} is no list of at most {MOST_ITEMS}"]
        return [f for at, one in enumerate(value) for f in faults(one, form[0], f"{where}[{at}]")]
    if isinstance(form, dict):
        return _faults_of_object(value, form, where)
    if isinstance(value, bool) or form is bool:
        return [] if isinstance(value, bool) and form is bool else [f"{where} is no {_name(form)}"]
    if form is float and isinstance(value, int):
        value = float(value) if abs(value) < MOST_COUNT else math.inf
    if not isinstance(value, form):
        return [f"{where} is no {_name(form)}"]
    if isinstance(value, str) and len(value) > MOST_CHARACTERS:
        return [f"{where} has {len(value)} characters"]
    if isinstance(value, float | int) and not -MOST_COUNT < value < MOST_COUNT:
        return [f"{where} is out of all bounds"]
    return []


def _faults_of_object(value: Any, form: dict[Any, Any], where: str) -> list[str]:
    if not isinstance(value, dict) or len(value) > MOST_ITEMS:
        return [f"{where} is no object of at most {MOST_ITEMS} entries"]
    if str in form:
        found = [f for key in value for f in faults(key, str, f"a name in {where}")]
        return found + [f for key in value for f in faults(value[key], form[str], f"{where}.x")]
    known = {key.removesuffix("?"): one for key, one in form.items()}
    found = [f"{where}.{key} is missing" for key in form if key[-1] != "?" and key not in value]
    if set(value) - set(known):
        found.append(f"{where} has entries that nobody knows")
    for key in set(value) & set(known):
        found += faults(value[key], known[key], f"{where}.{key}")
    return found


def _name(form: type) -> str:
    names = {bool: "yes or no", int: "whole number", float: "number", str: "text"}
    return names.get(form, "null")


def read(said: Document, ranks: int) -> Document:
    """The document in what within.py says of the payload. Raises Unusable with the reason."""
    found = told(said)
    refuse(faults(found, _FORM) or _contradictions(found, ranks))
    return found


def refuse(wrong: list[str]) -> None:
    """Raises Unusable with the first of what is wrong with a document, if anything is."""
    if wrong:
        raise Unusable(f"its document cannot be used: {wrong[0][:200]} ({len(wrong)} in all)")


def told(said: Document) -> Document:
    """The one document, of whatever form, that a payload of ours printed. Raises Unusable."""
    last = " | ".join(str(said["err"]).strip().splitlines()[-3:])[-300:]
    if said["hung"]:
        raise Unusable(f"it never came back from stage {said['stage'] or 'start'}", hung=True)
    if said["rc"] != 0:
        raise Unusable(f"it gave no document (exit {said['rc']}): {last or 'it said nothing'}")
    out = said["out"]
    if len(out) >= MOST_BYTES:
        raise Unusable(f"it printed {len(out)} characters")
    lines = [line for line in out.splitlines() if line.startswith(MARK)]
    if len(lines) != 1:
        raise Unusable(f"it printed {len(lines)} documents instead of one")
    return parsed(lines[0][len(MARK) :])


def parsed(text: str) -> Document:
    """A document of schema 1 from its text. Raises Unusable."""
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Unusable("its document is no JSON: truncated, or mixed with other output") from None
    if not isinstance(found, dict) or found.get("schema") != 1:
        raise Unusable("its document has another schema than 1")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _contradictions(found: Document, ranks: int) -> list[str]:
    """What is of the form and cannot be."""
    wrong = []
    if found["world"] != ranks or [one["rank"] for one in found["ranks"]] != list(range(ranks)):
        wrong.append(f"it tells of {found['world']} ranks and not of the {ranks} that were asked")
    for one in found["ranks"]:
        name = f"rank {one['rank']}"
        if one["state"] not in STATES or one["stage"] not in STAGES:
            wrong.append(f"{name} is in a state or stage that nobody knows")
        if (one["state"] == "ended") != one["ended"]:
            wrong.append(f"{name} has ended and has not")
        parts = ("collectives", "gradients", *MODELS, "libraries", "stages")
        if one["ended"] and not all(part in one for part in parts):
            wrong.append(f"{name} has ended without having done everything")
        if one["ended"] and one["device"] is None:
            wrong.append(f"{name} has ended on no device")
    tasks = set(found["run"].get("tasks", ()))
    if any(one["ended"] for one in found["ranks"]) and tasks != {*MODELS}:
        wrong.append("it does not say what was trained")
    return wrong + lost_alone(found["ranks"])


def lost_alone(ranks: list[Document]) -> list[str]:
    """That ranks waited for one that failed, and none did."""
    alone = {one["state"] for one in ranks} in ({"lost"}, {"ended", "lost"})
    return ["ranks were lost and none failed"] if alone else []


# ---- what ranks are


def component(rank: Document, gpus: list[Document]) -> Component:
    """The GPU that a rank ran on, as NVML shows it; a rank of the CPU is itself."""
    device = rank["device"] or {"kind": "", "index": rank["rank"], "uuid": "", "name": ""}
    if device["kind"] == "cpu" or (not device["kind"] and not gpus):
        return Component(kind="rank", name="cpu", index=rank["rank"])
    for gpu in gpus:
        if device["uuid"] and gpu["uuid"] == device["uuid"]:
            return part(gpu)
    for gpu in gpus:
        if not device["uuid"] and gpu["index"] == device["index"]:
            return part(gpu)
    return Component(kind="gpu", name=device["name"], index=device["index"], uuid=device["uuid"])


def failure(rank: Document) -> str:
    """How a rank failed, and where."""
    where = f"in stage {rank['stage']} ({rank['at']})"
    if rank["state"] == "died":
        return f"{death(rank)} {where}"
    if rank["state"] == "hung":
        left = ", and could not be killed" if rank["abandoned"] else ""
        return f"hung {where}{left}"
    return f"{rank['error'].partition(': ')[0] or 'an error'} {where}"


def death(rank: Document) -> str:
    """How the process of a rank came to its end."""
    code = rank["code"]
    return "died" if code is None else f"died of signal {-code}" if code < 0 else f"exit {code}"


def evidence(rank: Document, document: Document) -> list[str]:
    """Lines that show how a rank failed: who it is, where it was, its stack, what it said last."""
    lines = [who(rank, document)]
    lines += [rank["error"].splitlines()[0]] if rank["error"] else []
    if rank["state"] in ("hung", "lost"):
        lines.append(waited(rank))
        lines += [f"  {frame}" for frame in rank["stack"][:MOST_FRAMES]]
    lines += [line for line in rank["stderr"].splitlines() if line.strip()][-3:]
    if document["perturbed"]:
        lines.append(f"perturbed on purpose: {document['perturbed']}")
    return lines


def who(rank: Document, document: Document) -> str:
    """A rank by its number, its host and its GPU."""
    device = rank["device"] or {"uuid": "", "name": "no device yet"}
    number = "a rank without a number yet" if rank["rank"] is None else f"rank {rank['rank']}"
    where = f"{number} of {document['world']} on {document['host']}"
    return f"{where}, {device['uuid'] or device['name']}"


def waited(rank: Document) -> str:
    """Which collective a rank was in, by its own count and by torch's."""
    which = "in" if rank["inside"] else "before"
    known = rank["collective"] or "a collective"
    torchs = f"; torch's last: {known}" if rank["collective"] or rank["sequence"] else ""
    number = "" if rank["sequence"] is None else f", sequence number {rank['sequence']}"
    call = rank["calls"] if rank["inside"] else rank["calls"] + 1
    return f"{which} call {call} for the other ranks ({rank['at']}){torchs}{number}"


def odd_ones(values: dict[int, str]) -> set[int]:
    """Ranks whose value is not the one that more than half of them have; all, without such."""
    if not values:
        return set()
    (common, times), *_ = Counter(values.values()).most_common(1)
    if 2 * times <= len(values) and times < len(values):
        return set(values)
    return {rank for rank, value in values.items() if value != common}


def senders(ranks: list[Document]) -> set[int]:
    """Ranks that sent wrong elements: they see them in what they themselves sent, or all others do.

    A rank that alone sees another's elements wrong is itself the one that got them wrong.
    """
    seen: dict[int, set[int]] = {}
    for one in ranks:
        for wrong in one["collectives"]["wrong"]:
            if wrong["source"] is not None:
                seen.setdefault(wrong["source"], set()).add(one["rank"])
    everyone = {one["rank"] for one in ranks}
    return {
        source
        for source, by in seen.items()
        if source in by or (len(everyone) > 2 and everyone - {source} <= by)
    }


# ---- bounds


def gradient_bound(gradient: Document, epsilon: float) -> float:
    """How far two correct gradients may be apart, relative to their norm.

    Both are the exact gradient with roundings, in another order. A sum of n terms is off by about
    sqrt(n) units of rounding, epsilon / 2 (N. Higham, T. Mary, "A new approach to probabilistic
    rounding error analysis", 2019), and such sums follow one another through the layers, there and
    back, and over all samples: their errors add up. Averaging over the ranks is one more addition
    each. Twice the half epsilon, since both gradients are rounded.
    """
    roundings: float = sum(math.sqrt(max(0, n)) for n in gradient["sums"]) + gradient["ranks"]
    return epsilon * roundings


def loss_bounds(task: Document, samples: int) -> tuple[float, float]:
    """Between what is the loss after training, in nats.

    Nobody gets below the entropy of the data, but by chance: five deviations of a mean over
    `samples`. Who learns nothing of what depends on the input stays at the logarithm of the number
    of choices, or above. Half-way between the two, most of what can be learnt is.
    """
    entropy, choices = task["entropy"], task["choices"]
    lowest = entropy - 5 * task["deviation"] / math.sqrt(max(1, samples))
    return lowest, (entropy + math.log(choices)) / 2
