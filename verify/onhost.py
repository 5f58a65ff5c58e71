"""Runs the checks on the host itself: a request on standard input, one line GPUFLEET {json} out.

Started from the bundle, with or without a controller: `python3 -I -S -B verify/onhost.py`. The line
is a HostResult (verify/results.py); whatever else is said goes to standard error. Exit 0 means that
a result was printed, not that it is good; 1 that there is none, 2 that the request was wrong.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VERIFY = ROOT / "verify"

_TYPES: dict[str, type | tuple[type, ...]] = {
    "nonce": str,
    "host": str,
    "level": str,
    "checks": list,
    "expected": (dict, type(None)),
    "prefix": str,
    "train_as": str,
    "env": str,
    "via": str,
    "minutes": int,
    "rendezvous": (dict, type(None)),
    "thresholds": dict,
    "accept_hardware": bool,
}


class WrongRequest(Exception):  # noqa: N818 - as deploy.fleet.errors.WrongInput
    """The request cannot be used; the text says why."""


class Collector:
    """What conftest asks for and tells, as a plugin of pytest's."""

    def __init__(self, scene: Any, wanted: list[str]) -> None:
        self.scene, self.wanted = scene, wanted
        self.results: list[Any] = []
        self.unknown: list[str] = []
        """Ids asked for that no check has."""
        self.unreadable: list[str] = []

    def done(self, asked: Any) -> None:
        """One check has ended, or was not asked."""
        self.results.append(asked)

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        """Only the checks asked for."""
        known = {item.obj.check.id for item in items if hasattr(item.obj, "check")}
        self.unknown = sorted(set(self.wanted) - known)
        if self.wanted:
            chosen = [item for item in items if _id(item) in self.wanted]
            config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
            items[:] = chosen

    def pytest_collectreport(self, report: Any) -> None:
        """A file of checks that cannot be read is no file without checks."""
        if report.failed:
            self.unreadable.append(f"{report.nodeid}: {report.longreprtext[-400:]}")


def _id(item: Any) -> str:
    check = getattr(item.obj, "check", None)
    return check.id if check is not None else ""


def request_of(text: str) -> dict[str, Any]:
    """The request, its form checked; WrongRequest with everything that is wrong."""
    from verify import own
    from verify.checks import BY_NAME, LEVELS

    try:
        found = json.loads(text)
    except ValueError as error:
        raise WrongRequest(f"no JSON: {error}") from None
    if not isinstance(found, dict) or found.get("schema") != 1:
        raise WrongRequest("its schema is not 1")
    wrong = [key for key, kind in _TYPES.items() if not isinstance(found.get(key), kind)]
    if found.get("level") not in LEVELS + BY_NAME:
        wrong.append("level")
    if wrong:
        raise WrongRequest(f"wrong or missing: {', '.join(sorted(set(wrong)))}")
    if found["expected"] is not None:
        try:
            own.usable(found["expected"], "the lock's expected state")
        except own.Unusable as error:
            raise WrongRequest(str(error)) from None
    return found


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Ask the checks; the result document. Raises there.Unreachable, WrongRequest."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_THEME"):
        os.environ.pop(name, None)
    import pytest
    import testinfra  # type: ignore[import-untyped]

    from verify import there
    from verify.conftest import ONHOST

    started, begun = _now(), time.monotonic()
    host = testinfra.get_host("local://")
    scene = there.scene(host, {**request, "expected_from": "lock"})
    collector = Collector(scene, request["checks"])
    # testinfra's plugin by name, and only so: with autoload off it cannot come twice.
    options = ["-p", "testinfra.plugin", "-p", "no:cacheprovider", "-p", "no:terminal", "-s"]
    options += ["-c", os.devnull, "--rootdir", str(ROOT)]
    files = [str(path) for path in sorted(VERIFY.glob("test_*.py"))]
    files += [str(path) for path in sorted(VERIFY.glob("site/test_*.py"))]
    plugin = _Named(collector, ONHOST)
    pytest.main([*options, *files], plugins=[plugin])
    if collector.unreadable:
        raise there.Unreachable(f"checks cannot be read: {'; '.join(collector.unreadable)}")
    if collector.unknown:
        raise WrongRequest(f"no check {', '.join(collector.unknown)} in this bundle")
    document = result(request, scene, collector.results)
    document.update(started=started, seconds=round(time.monotonic() - begun, 3))
    _remember(document, scene, request)
    _offer(document, request)
    return document


class _Named:
    """Registers a plugin under its name: pytest.main knows only nameless ones."""

    def __init__(self, plugin: object, name: str) -> None:
        self.plugin, self.name = plugin, name

    def pytest_configure(self, config: Any) -> None:
        config.pluginmanager.register(self.plugin, self.name)


def result(request: dict[str, Any], scene: Any, results: list[Any]) -> dict[str, Any]:
    """The result document of verify/results.py, as plain values."""
    from verify import past
    from verify.applies import who
    from verify.checks import said

    report, expected = scene.report, scene.expected
    host = report["host"]
    gpus = [_identity(gpu, scene) for gpu in report["nvml"]["gpus"]]
    before, past_fault = past.kept(gpus, request["prefix"]) if _whole(request) else (None, "")
    return {
        "schema": 1,
        "nonce": request["nonce"],
        "host": request["host"],
        "hostname": host["hostname"],
        "boot_id": host["boot_id"],
        "started": "",
        "seconds": 0.0,
        "level": request["level"],
        "bundle": bundle_id(),
        "python": f"{'.'.join(map(str, sys.version_info[:3]))} {sys.executable}",
        "user": host["user"],
        "simulated": bool(host["simulated"]),
        "expected_from": scene.expected_from,
        "stack": expected["stack"] if expected else "",
        "gpus": gpus,
        "busy": [said(line) for line in who(report)[:200]],
        "checks": [_checked(one) for one in results if not one.not_asked],
        "not_asked": [
            {"id": one.check.id, "reason": one.not_asked} for one in results if one.not_asked
        ],
        "measurements": [
            {**figure, "component": _bounded(asdict(figure["component"]))}
            for one in results
            for figure in one.measurements
        ],
        "information": [line for one in results for line in one.information][:50],
        "document": next((one.document for one in results if one.document), ""),
        "prints": [
            {**known, "component": _bounded(asdict(known["component"]))}
            for one in results
            for known in one.prints
        ],
        "software": past.software(report, gpus),
        "past": before,
        "past_fault": past_fault,
    }


def _identity(gpu: dict[str, Any], scene: Any) -> dict[str, Any]:
    from verify.gpus import at_slot, lost_gpus

    slots = {one["index"]: one["slot"] for one in lost_gpus(scene)}
    part = asdict(at_slot(slots[gpu["index"]], scene)) if gpu["lost"] else gpu
    names = ("name", "uuid", "serial", "slot")
    return {
        "index": gpu["index"],
        **{name: part[name] or gpu[name] or "" for name in names},
        "board": {key: text for key, text in (gpu.get("board") or {}).items() if text is not None},
        "physics": {key: one for key, one in (gpu.get("physics") or {}).items() if one is not None},
    }


def _checked(one: Any) -> dict[str, Any]:
    return {
        "id": one.check.id,
        "claim": one.check.claim,
        "level": one.check.level,
        "verdict": one.look.verdict,
        "seconds": round(one.seconds, 3),
        "looked_at": len(one.look.observations),
        "findings": [
            {**finding, "component": _bounded(finding["component"])}
            for finding in one.look.document()
        ],
    }


def _bounded(component: dict[str, Any]) -> dict[str, Any]:
    """A component's names at the length that the controller takes."""
    return {key: text[:200] if isinstance(text, str) else text for key, text in component.items()}


def line(document: dict[str, Any]) -> str:
    """The document as its one line of ASCII. What is no text of any encoding (half a character in
    the name of somebody's process) becomes a question mark: it must not cost the whole answer."""
    from verify.checks import MARK

    text = json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")
    return MARK + json.dumps(json.loads(text))


def bundle_id() -> str:
    """Hash of the bundle that this file is part of; "" where it is none."""
    import hashlib

    try:
        return hashlib.sha256((ROOT / "MANIFEST").read_bytes()).hexdigest()
    except OSError:
        return ""


def good_run(document: dict[str, Any], accept_hardware: bool) -> bool:
    """The GPUs seen are this host's own from now on: what asks about GPUs was asked and held.

    Other GPUs than the last time are a finding of gpu.identity; accepting them overrules it alone.
    """
    verdicts = {one["id"]: one["verdict"] for one in document["checks"]}
    needed = {"gpu.count", "gpu.answers", "nvml.answers"}
    about = {
        id: verdict
        for id, verdict in verdicts.items()
        if id.startswith(("gpu.", "nvml.")) and not (id == "gpu.identity" and accept_hardware)
    }
    return bool(document["gpus"]) and needed <= about.keys() and set(about.values()) == {"pass"}


def _remember(document: dict[str, Any], scene: Any, request: dict[str, Any]) -> None:
    from verify import own

    if not good_run(document, request["accept_hardware"]):
        return
    record = own.new_record(document["gpus"], document["started"], document["stack"])
    record |= own.around(
        scene.report,
        scene.record,
        {one["id"]: one["verdict"] for one in document["checks"]},
        {one["id"] for one in document["not_asked"]},
        request["accept_hardware"],
    )
    try:
        own.keep_record(record, request["prefix"])
    except OSError as error:
        print(f"the GPUs of this good run could not be recorded: {error}", file=sys.stderr)


def _whole(request: dict[str, Any]) -> bool:
    """A run that measures the host's own environment, and leaves no check of its level out."""
    from verify.checks import LEVELS

    return request["level"] in LEVELS[1:] and not request["checks"] and not request["env"]


def _offer(document: dict[str, Any], request: dict[str, Any]) -> None:
    """Leave the figures of a whole run for the controller to call good."""
    from verify import past

    if not _whole(request) or not document["measurements"]:
        return
    try:
        past.offer(document, request["prefix"])
    except (OSError, ValueError) as error:
        print(f"the figures of this run could not be left: {error}", file=sys.stderr)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def main() -> int:
    """Read the request, run, print; see the module."""
    # Our own paths only: this script's folder holds modules that are no top-level names.
    sys.path[:] = [str(ROOT), str(ROOT / "lib"), *(p for p in sys.path if p != str(VERIFY))]
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints, prints to standard error
    from verify import there

    try:
        document = run(request_of(sys.stdin.read()))
    except WrongRequest as error:
        print(f"onhost: the request cannot be used: {error}", file=sys.stderr)
        return 2
    except there.Unreachable as error:
        print(f"onhost: {error}", file=sys.stderr)
        return 1
    print(line(document), file=answer, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
