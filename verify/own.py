"""What a host itself knows: its expected state, and the GPUs of its last good run.

Travels to the host: standard library only, Python 3.10. The files are read through testinfra's
`host`, so that it makes no difference whether the checks run there or here.
"""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any

EXPECTED = "/etc/gpufleet/expected.json"
"""What `gpufleet apply` and `gpufleet adopt` write; without root it lies below the prefix."""
RECORD = "/var/lib/gpufleet/verified.json"
"""The GPUs of the last good run; without root it lies below the prefix."""
VERSION = 1
"""Of the expected state's form (deploy/layers/expected.py)."""
SCHEMA = 1
"""Of the record's form."""
MOST_BYTES = 1 << 20

_OPTIONAL = type(None)
_FORM: dict[str, tuple[type, ...]] = {
    "host": (str,),
    "stack": (str,),
    "gpus": (int, _OPTIONAL),
    "nvswitches": (int, _OPTIONAL),
    "driver": (dict, _OPTIONAL),
    "fabric": (str, _OPTIONAL),
    "cuda": (str, _OPTIONAL),
    "cudnn": (str, _OPTIONAL),
    "nccl": (str, _OPTIONAL),
    "packages": (dict,),
    "services": (list,),
    "prefix": (str,),
    "environment": (dict, _OPTIONAL),
    "mounts": (list, _OPTIONAL),
    "network_ports": (int, _OPTIONAL),
}
_TEXTS = {
    "driver": ("branch", "version", "flavour"),
    "environment": ("id", "path", "python", "torch", "build"),
}
_GPU_TEXTS = ("name", "uuid", "serial", "slot")


class Unusable(Exception):  # noqa: N818 - an answer, not a fault
    """A file of the host that is there and cannot be used; the text says why."""


def read(host: Any, path: str) -> dict[str, Any] | None:
    """The JSON object in a file of the host, None when there is no such file; else Unusable."""
    asked = host.run(f"if [ -e %s ]; then head -c {MOST_BYTES} %s; else exit 44; fi", path, path)
    if asked.rc == 44:
        return None
    if asked.rc != 0:
        raise Unusable(f"{path} cannot be read: {asked.stderr.strip() or f'exit {asked.rc}'}")
    try:
        found = json.loads(asked.stdout)
    except ValueError as wrong:
        raise Unusable(f"{path} is no JSON: {wrong}") from None
    if not isinstance(found, dict):
        raise Unusable(f"{path} holds no JSON object")
    return found


def faults(state: dict[str, Any]) -> list[str]:
    """What is wrong with the form of an expected state; [] when it can be used."""
    if state.get("version") != VERSION:
        return [f"its form has version {state.get('version')!r}, known is {VERSION}"]
    found = []
    for key, kinds in _FORM.items():
        value = state.get(key)
        if key not in state and _OPTIONAL not in kinds:
            found.append(f"{key} is missing")
        elif isinstance(value, bool) or not isinstance(value, kinds):
            found.append(f"{key} is {type(value).__name__}")
    for key, names in _TEXTS.items():
        part = state.get(key)
        if isinstance(part, dict):
            found += [f"{key}.{name} is no text" for name in names if not _text(part.get(name))]
    environment = state.get("environment")
    tables = {"packages": state.get("packages")}
    if isinstance(environment, dict):
        tables["environment.wheels"] = environment.get("wheels")
    for key, table in tables.items():
        if not isinstance(table, dict) or not all(_text(value) for value in table.values()):
            found.append(f"{key} are no names with versions")
    services = state.get("services")
    if isinstance(services, list) and not all(_text(value) for value in services):
        found.append("services are no names")
    mounts = state.get("mounts") or []
    if isinstance(mounts, list) and not all(_text(one) and one.startswith("/") for one in mounts):
        found.append("mounts are no absolute paths")
    return found


def _text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def usable(state: dict[str, Any], whence: str) -> dict[str, Any]:
    """The expected state itself; Unusable with everything that is wrong with its form."""
    wrong = faults(state)
    if wrong:
        raise Unusable(f"{whence} cannot be used: {'; '.join(wrong)}")
    return state


def own_expected(host: Any, prefix: str) -> tuple[dict[str, Any] | None, str]:
    """The host's own expected state and its path; None when it has none.

    A prefix with a state of its own belongs to a user without root (deploy/fleet/places.py); the
    system's then speaks of another prefix.
    """
    for path in (f"{prefix}/expected.json", EXPECTED):
        found = read(host, path)
        if found is not None:
            return usable(found, path), path
    return None, EXPECTED


def filled(
    wanted: dict[str, Any], own: dict[str, Any] | None, record: dict[str, Any] | None
) -> dict[str, Any]:
    """The lock's state with the hardware that the inventory leaves open, as the host has it."""
    counts = {key: wanted.get(key) for key in ("gpus", "nvswitches")}
    for key in counts:
        if counts[key] is None and own is not None:
            counts[key] = own.get(key)
    if counts["gpus"] is None and record is not None:
        counts["gpus"] = len(record["gpus"])
    return {**wanted, **counts}


# ---- the GPUs of the last good run


def record_paths(prefix: str) -> tuple[str, str]:
    """Where the record may lie, the one of root first."""
    return RECORD, f"{prefix}/verified.json"


def own_record(host: Any, prefix: str) -> dict[str, Any] | None:
    """The record of the last good run, None without one; Unusable when it cannot be used."""
    for path in record_paths(prefix):
        found = read(host, path)
        if found is None:
            continue
        gpus = found.get("gpus")
        good = isinstance(gpus, list) and all(map(_gpu, gpus)) and _around(found)
        if found.get("schema") != SCHEMA or not good:
            raise Unusable(f"{path} is no record of form {SCHEMA}")
        return found
    return None


def _gpu(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name), str) for name in _GPU_TEXTS)


def _around(record: dict[str, Any]) -> bool:
    """What stands around the GPUs, where it was recorded, has its form."""
    host, ports = record.get("host"), record.get("ports") or []
    counts = [host.get(name) for name in ("cpus", "memory_mib")] if isinstance(host, dict) else []
    if host is not None and [type(one) for one in counts] != [int, int]:
        return False
    return isinstance(ports, list) and all(
        isinstance(one, dict)
        and all(isinstance(one.get(name), str) for name in ("device", "port"))
        and isinstance(one.get("rate_gbs"), int | float | None)
        for one in ports
    )


def around(
    report: dict[str, Any],
    before: dict[str, Any] | None,
    verdicts: dict[str, str],
    not_asked: set[str],
    accept: bool,
) -> dict[str, Any]:
    """The host around its GPUs as its record keeps it: the ports that are up, memory, processors.

    What was not looked at, or did not hold, stays as it was recorded, unless it is accepted as it
    is now; a gain is taken over, a loss within what is tolerated is not, lest it adds up.
    """
    kept = before or {}
    found: dict[str, Any] = {"host": kept.get("host"), "ports": kept.get("ports")}
    if accept or verdicts.get("network.ports") == "pass" or "network.ports" in not_asked:
        names = ("device", "port", "link_layer", "rate_gbs")
        found["ports"] = [
            {name: port[name] for name in names}
            for port in report["network"]["ports"]
            if port["state"] == "ACTIVE"
        ]
    now = {name: report["processors"][key] for name, key in _COUNTS.items()}
    if None not in now.values():
        if accept or found["host"] is None:
            found["host"] = now
        else:
            found["host"] = {name: max(now[name], found["host"][name]) for name in now}
    return {name: value for name, value in found.items() if value is not None}


_COUNTS = {"cpus": "count", "memory_mib": "memory_mib"}
"""Name in the record -> name in the report."""


def new_record(gpus: list[dict[str, Any]], time: str, stack: str) -> dict[str, Any]:
    """The record of a good run: when, at which stack, and the identity of every GPU."""
    return {
        "schema": SCHEMA,
        "time": time,
        "stack": stack,
        "gpus": [{name: gpu[name] or "" for name in _GPU_TEXTS} for gpu in gpus],
    }


def keep_record(record: dict[str, Any], prefix: str) -> str:
    """Write the record at once or not at all; returns its path. Raises OSError.

    Only where the checks run on the host itself. Below a prefix that has a state of its own,
    root's record lies there too: the inventory wants nothing outside it.
    """
    below = os.geteuid() != 0 or os.path.exists(f"{prefix}/expected.json")
    path = record_paths(prefix)[1 if below else 0]
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o755, exist_ok=True)
    descriptor, beside = tempfile.mkstemp(prefix=".verified.", dir=folder)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(record, file, indent=1, sort_keys=True)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o644)
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
    return path
