"""Golden files drawn anew, and what differs from those that are committed."""

from __future__ import annotations

import difflib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.facts import NodeFacts
from deploy.fleet.inventory import Fleet
from deploy.fleet.inventory import Host as InventoryHost
from deploy.layers.files import digest
from deploy.lock import lock_path, write_lock
from deploy.locking import new_lock
from tests.golden.cases import Case, cases, solved, stack, unsolved
from tests.golden.scripts import blocks, parts
from tests.golden.states import STATES
from tests.golden.text import golden

PLACE = Path(__file__).parent
ROOT = PLACE.parents[1]


@dataclass(frozen=True)
class Host:
    """One host of the play."""

    name: str
    case: Case
    state: str
    facts: NodeFacts


def hosts() -> list[Host]:
    """Every case in every state."""
    made = []
    for case in cases():
        for state, make in STATES.items():
            name = f"@fake/{case.name}-{state}"
            facts = make(case, name).model_copy(update={"host": name})
            made.append(Host(name, case, state, facts))
    return made


def played(fleet: list[Host]) -> dict[str, Any]:
    """What pyinfra's own command does with all of them, in one run."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        quick = {"fake_delay": 0.0, "fake_delay_jitter": 0.0}
        listed = [(host.name, {**host.case.wish, **quick}) for host in fleet]
        inventory = place / "golden.py"
        inventory.write_text(f"gpus = {listed!r}\n")
        lock_path(inventory).write_bytes(lock_bytes(place, {h.name: h.case for h in fleet}))
        facts = {host.name: host.facts.model_dump_json() for host in fleet}
        (place / "hosts.json").write_text(json.dumps(facts))
        done = subprocess.run(
            [sys.executable, "-m", "tests.golden.play", folder],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYINFRA_PROGRESS": "off"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        result = place / "played.json"
        said = done.stdout[-3000:] + done.stderr[-3000:]
        assert result.exists(), said
        found = json.loads(result.read_text())
        assert not found["faults"], "\n".join(found["faults"][:3])
        hosts: dict[str, Any] = found["hosts"]
        assert all(one["plan"] for one in hosts.values()), said
        return hosts


def lock_bytes(folder: Path, listed: dict[str, Case]) -> bytes:
    """The lock of these hosts, as `gpufleet lock` writes it."""
    made = {name: InventoryHost(name, (), case.spec, {}) for name, case in listed.items()}
    lock = new_lock(
        Fleet("golden", None, made), {name: solved(case) for name, case in listed.items()}
    )
    path = folder / "written.lock"
    write_lock(path, lock)
    return path.read_bytes()


def drawn() -> dict[str, str]:
    """Path below this folder -> text, for every golden file."""
    fleet = hosts()
    found = played(fleet)
    return texts(fleet, found)


def texts(fleet: list[Host], found: dict[str, Any]) -> dict[str, str]:
    """The golden files of a play; the fixed texts that it used are among them."""
    files, used = {"unsolved.txt": unsolved()}, set[str]()
    shown: dict[Case, dict[str, str]] = {}
    for host in fleet:
        title = f"{host.case.name}, {host.state}: {STATES[host.state].__doc__}"
        one, seen = found[host.name], shown.setdefault(host.case, {})
        name = f"{host.state}.txt"
        files[f"{host.case.name}/{name}"] = golden(title, host.facts, stack(host.case), one, seen)
        for executed in one["executed"]:
            used |= set(parts(executed["shell"]).names)
            used |= {name for name, fixed in blocks() if fixed == executed["stdin"]}
            seen.setdefault(executed["stdin"], name)
    return files | {"scripts.txt": scripts(used)}


def scripts(used: Iterable[str]) -> str:
    """The fixed texts by name: where the text itself is, and a digest that shows a change."""
    fixed = dict(blocks())
    rows = [f"{name:<28}{digest(fixed[name])[:12]}" for name in sorted(used)]
    about = "Fixed texts that commands are made of: deploy/<module>.py, constant, sha256."
    return "\n".join([about, "", *rows, ""])


def committed() -> dict[str, str]:
    """The golden files as they are now."""
    paths = [*PLACE.glob("*.txt"), *PLACE.glob("*/*.txt")]
    return {str(path.relative_to(PLACE)): path.read_text() for path in sorted(paths)}


def differences(files: dict[str, str]) -> list[str]:
    """Unified diffs, [] when all is as committed."""
    before = committed()
    lines: list[str] = []
    for name in sorted({*files, *before}):
        old, new = before.get(name, "").splitlines(), files.get(name, "").splitlines()
        lines += difflib.unified_diff(old, new, f"committed {name}", f"drawn {name}", lineterm="")
    return lines


def write(files: dict[str, str]) -> list[str]:
    """Make the files as drawn; the names of those that changed."""
    before = committed()
    changed = sorted(name for name in {*files, *before} if files.get(name) != before.get(name))
    for name in changed:
        path = PLACE / name
        if name not in files:
            path.unlink()
            continue
        path.parent.mkdir(exist_ok=True)
        path.write_text(files[name])
    return changed
