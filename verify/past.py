"""The figures of a host's last good run: kept on the host, and compared with by whoever asks.

A run of level standard or deeper leaves its figures beside the record as a candidate. Only when a
controller has judged them good, beside all other hosts, it says so (this file run as a program,
with the run's nonce), and the candidate becomes the record. Without a controller nothing does.

    figures.json            the record: below /var/lib/gpufleet, without root below the prefix
    figures.candidate.json  figures of the newest run, whether good or not

Travels to the host: standard library only, Python 3.10.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import tempfile
from typing import Any

SCHEMA = 1
RECORD = "figures.json"
CANDIDATE = "figures.candidate.json"
ROOTS = "/var/lib/gpufleet"
MACHINE_ID = "/etc/machine-id"
MOST_BYTES = 1 << 20
"""Of the record: some thousands of figures."""
MOST_FIGURES = 5000
MOST_TEXT = 200

_TEXTS = ("time", "stack", "nonce")
_PART = ("kind", "name", "index", "uuid", "serial", "slot")


class Unusable(Exception):  # noqa: N818 - an answer, not a fault
    """A record that is there and cannot be used; the text says why."""


def folder(prefix: str) -> str:
    """Where this user keeps the record: below a prefix with a state of its own, root does too."""
    below = os.geteuid() != 0 or os.path.exists(f"{prefix}/expected.json")
    return prefix if below else ROOTS


def machine(gpus: list[dict[str, Any]]) -> list[str]:
    """What tells this machine from another with its disk: its GPUs, else its machine id."""
    known = sorted({gpu["serial"] or gpu["uuid"] for gpu in gpus} - {"", "0"})
    if known:
        return known
    try:
        with open(MACHINE_ID) as file:
            return [f"machine-id {file.read(64).strip()}"]
    except OSError:
        return []


def same_machine(then: list[str], now: list[str]) -> bool:
    """At least half of the GPUs are the same: one that is lost or was exchanged makes no other
    machine of it, and figures are compared part by part anyway."""
    return bool(then) and 2 * len(set(then) & set(now)) >= len(set(then))


def software(report: dict[str, Any], gpus: list[dict[str, Any]]) -> dict[str, str]:
    """Versions of what figures depend on, as far as they could be read."""
    torch, nvml = report["torch"], report["nvml"]
    found = {
        "driver": nvml["driver"],
        "kernel": report["kernel"]["running"],
        **{name: torch.get(name) for name in ("python", "cuda", "cudnn", "nccl")},
        "torch": torch.get("version"),
    }
    for name in ("vbios", "gsp"):
        several = {gpu["board"].get(name) for gpu in gpus} - {None, ""}
        found[name] = ", ".join(sorted(map(str, several)))
    return {name: str(text)[:MOST_TEXT] for name, text in found.items() if text}


def offer(document: dict[str, Any], prefix: str) -> None:
    """Leave a run's figures as the candidate. Raises OSError, and ValueError when they are more
    than a record holds."""
    candidate = {
        "schema": SCHEMA,
        "nonce": document["nonce"],
        "time": document["started"],
        "stack": document["stack"],
        "machine": machine(document["gpus"]),
        "software": document["software"],
        "measurements": document["measurements"],
    }
    text = json.dumps(candidate, allow_nan=False, sort_keys=True)
    if len(text) > MOST_BYTES:
        raise ValueError(f"{len(text)} bytes of figures, a record holds {MOST_BYTES}")
    _write(f"{folder(prefix)}/{CANDIDATE}", text)


def keep(nonce: str, prefix: str) -> str:
    """Make the candidate of this run the record; returns its path. Raises OSError and Unusable."""
    place = folder(prefix)
    found = _read(f"{place}/{CANDIDATE}")
    if found is None or found["nonce"] != nonce:
        raise Unusable(f"{place}/{CANDIDATE} is not of this run: another one has begun since")
    os.replace(f"{place}/{CANDIDATE}", f"{place}/{RECORD}")
    return f"{place}/{RECORD}"


def kept(gpus: list[dict[str, Any]], prefix: str) -> tuple[dict[str, Any] | None, str]:
    """The record as the result document has it, and why it cannot be used; (None, "") when there
    is none."""
    path = f"{folder(prefix)}/{RECORD}"
    try:
        found = _read(path)
    except Unusable as why:
        return None, f"{why}; it is not used, and the next good run replaces it"
    if found is None:
        return None, ""
    if not same_machine(found["machine"], machine(gpus)):
        return None, f"{path} is of another machine: it is not used, the next good run replaces it"
    name = hashlib.sha256("\n".join(found["machine"]).encode()).hexdigest()[:16]
    keys = ("time", "stack", "software", "measurements")
    return {**{key: found[key] for key in keys}, "machine": name}, ""


def _read(path: str) -> dict[str, Any] | None:
    """A record in its own form, None when there is no such file. Raises Unusable."""
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unusable(f"{path} cannot be read ({error.strerror})") from None
    if len(data) > MOST_BYTES:
        raise Unusable(f"{path} is larger than {MOST_BYTES} bytes")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise Unusable(f"{path} is no JSON") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise Unusable(f"{path} is no record of form {SCHEMA}")
    wrong = faults(found)
    if wrong:
        raise Unusable(f"{path} cannot be used: {'; '.join(wrong[:3])}")
    return found


def faults(record: dict[str, Any]) -> list[str]:
    """What is wrong with the form of a record; [] when it can be used."""
    wrong = [f"{name} is no text" for name in _TEXTS if not _text(record.get(name))]
    names, versions = record.get("machine"), record.get("software")
    if not isinstance(names, list) or not all(map(_text, names)):
        wrong.append("machine are no names")
    if not _texts(versions, 60):
        wrong.append("software are no names with versions")
    figures = record.get("measurements")
    if not isinstance(figures, list) or len(figures) > MOST_FIGURES:
        wrong.append("measurements are no list of figures")
    elif not all(map(_figure, figures)):
        wrong.append("a measurement is no figure")
    return wrong


def _figure(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    if value.keys() != {"name", "unit", "value", "component", "conditions"}:
        return False
    number, part = value["value"], value["component"]
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return False
    if not isinstance(part, dict) or not part.keys() <= set(_PART):
        return False
    index = part.get("index")
    counted = index is None or (type(index) is int and 0 <= index < 2**31)
    texts = {name: text for name, text in part.items() if name != "index"}
    return (
        math.isfinite(number)
        and counted
        and _texts(texts, len(_PART))
        and _text(value["name"])
        and _text(value["unit"])
        and _texts(value["conditions"], 20)
    )


def _text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MOST_TEXT


def _texts(value: object, most: int) -> bool:
    if not isinstance(value, dict) or len(value) > most:
        return False
    return all(_text(name) and _text(text) for name, text in value.items())


def _write(path: str, text: str) -> None:
    """A file at once or not at all."""
    place = os.path.dirname(path)
    os.makedirs(place, mode=0o755, exist_ok=True)
    descriptor, beside = tempfile.mkstemp(prefix=".figures.", dir=place)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o644)
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise


def main() -> int:
    """Keep the candidate that a request on standard input names by its nonce and prefix."""
    try:
        request = json.load(sys.stdin)
        path = keep(request["nonce"], request["prefix"])
    except (ValueError, KeyError, TypeError, Unusable, OSError) as error:
        print(f"past: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"past: kept in {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
