"""A verify run as one JSON document for machines. Pure but for `write_json`."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from deploy.fleet.errors import Fault, WrongInput
from verify.report.advice import again, mend
from verify.report.groups import Case, Group, accepted, cases, groups
from verify.report.view import View, meaning, tally
from verify.results import HostVerification

VERSION = 1
"""Of the document's form."""


def document(view: View) -> dict[str, Any]:
    """Plain JSON values: run facts, figures, findings in the order of what to do, every host."""
    run = view.run
    hosts = view.hosts.values()
    return {
        "version": VERSION,
        "run": {
            "id": run.id,
            "directory": view.place,
            "command": list(run.command),
            "controller": run.controller,
            "started": run.started,
            "ended": run.ended or None,
            "seconds": view.seconds,
            "state": run.state,
            "inventory": run.inventory,
            "lock": run.lock or None,
            "level": view.level,
            "simulated": view.simulated,
        },
        "exit": run.exit,
        "meaning": meaning(run),
        "summary": {
            "hosts": len(view.hosts),
            "verdicts": tally(one.verdict for one in hosts),
            "actions": dict(Counter(one.action for one in hosts)),
            "expected_absent": sum(bool(one.excused) for one in hosts),
        },
        "findings": [_group(group, view) for group in groups(hosts)],
        "hosts": {name: _host(one, view) for name, one in view.hosts.items()},
    }


def write_json(view: View, target: str) -> None:
    """The document to a file or (`-`) to stdout. Raises WrongInput when it cannot be written."""
    text = json.dumps(document(view), indent=1, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    write_file(target, text, "--json")


def write_file(target: str, text: str, option: str) -> None:
    """Text to a file that an option names. Raises WrongInput when it cannot be written."""
    try:
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        why = f"found {target}: it cannot be written ({error.strerror})"
        raise WrongInput([Fault("report", option, why)]) from None


def _group(group: Group, view: View) -> dict[str, Any]:
    inventory = view.run.inventory
    return {
        "check": group.check or None,
        "verdict": group.verdict,
        "action": group.action,
        "hosts": group.hosts,
        "mend": mend(group, inventory) or None,
        "again": again(group.check, group.hosts, inventory, view.level, view.way),
    }


def _host(one: HostVerification, view: View) -> dict[str, Any]:
    """One host: what it came to, and its document but for what only the transport needs."""
    said: dict[str, Any] = {
        "verdict": one.verdict,
        "action": one.action,
        "message": one.message,
        "expected_absent": one.excused or None,
        "notes": list(one.notes),
        "findings": [_case(case, view) for case in cases(one)],
        "waived": [_case(case, view) for case in accepted(one)],
    }
    if one.result is None:
        return said | {"result": None}
    result = one.result.model_dump(mode="json", by_alias=True, exclude={"nonce", "host", "checks"})
    checks = [check.model_dump(mode="json", exclude={"findings"}) for check in one.result.checks]
    return said | {"result": result | {"checks": checks}}


def _case(case: Case, view: View) -> dict[str, Any]:
    """One finding."""
    return {
        "check": case.check or None,
        "claim": case.claim,
        "verdict": case.verdict,
        "action": case.action,
        "component": case.component.model_dump(mode="json"),
        "what": case.what,
        "found": case.found,
        "expected": case.expected or None,
        "baseline": case.baseline or None,
        "others": list(case.others),
        "evidence": list(case.evidence),
        "silenced": list(case.silenced),
        "echoes": list(case.echoes),
        "waived": case.waived.model_dump(mode="json") if case.waived is not None else None,
        "again": again(case.check, [case.host], view.run.inventory, view.level, view.way),
    }
