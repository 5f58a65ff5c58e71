"""Gather what an RMA needs of a host into one archive: NVIDIA's report, serials, logs, findings.

HOST is asked now; of RUN (the newest verify run with that host) come the findings. The archive is
redacted and says in manifest.json where every file is from and what is missing. --csv writes the
serials and firmware of every GPU of an inventory instead, from the newest run of each host. Exit
codes: 0 it was written and the host was looked at, 2 wrong input, 4 it was written and the host,
or a part of it, could not be looked at.
"""

import argparse
import importlib.metadata
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from deploy.fleet import exits
from deploy.fleet.errors import Fault, WrongInput
from deploy.fleet.inventory import Fleet, Host, read_inventory
from deploy.fleet.runs import controller, file_name, now, printable, redactor
from verify import deep
from verify.bundle import bundle
from verify.commands.explain import of_host
from verify.evidence import (
    MOST_PACKED,
    BadEvidence,
    Piece,
    Source,
    archive,
    clean,
    findings_of,
    pieces,
    read,
    rows,
    table,
)
from verify.report.read import Recorded, find_verify, read_view, recorded
from verify.report.view import View
from verify.results import HostVerification
from verify.runner import Answer

GATHER_S = 240.0
"""For the host: its report twice, the second time in safe mode, and what is around it."""
BEFORE = timedelta(hours=1)
AFTER = timedelta(minutes=10)
"""Around a run: what its findings are about is in the kernel's log there."""
WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("host", nargs="?", metavar="HOST", help="a host of the inventory")
    parser.add_argument("run", nargs="?", metavar="RUN", help="id or directory of a verify run")
    parser.add_argument("--inventory", metavar="FILE", help="default: that of the run")
    parser.add_argument("--output", metavar="FILE", help="default: evidence-HOST-TIME.tar.gz")
    parser.add_argument("--csv", metavar="FILE", help="write serials and firmware of every GPU")


def run(arguments: argparse.Namespace) -> int:
    faults = _faults(arguments)
    if faults:
        raise WrongInput(faults)
    if arguments.csv is not None:
        return _table(arguments)
    found = _run_with(arguments.host, arguments.run)
    inventory = arguments.inventory or (found.run.inventory if found and found.run else None)
    if inventory is None:
        why = "no verify run below runs/ has it: name its inventory with --inventory"
        raise WrongInput([Fault("evidence", printable(arguments.host), why)])
    fleet = read_inventory(inventory)
    host = fleet.hosts.get(arguments.host)
    if host is None:
        why = f"is no host of {inventory}: {', '.join(list(fleet.hosts)[:8])}"
        raise WrongInput([Fault("evidence", printable(arguments.host), why)])
    return _gather(host, fleet, found, arguments.output)


def _faults(arguments: argparse.Namespace) -> list[Fault]:
    found = []
    if (arguments.host is None) == (arguments.csv is None):
        found.append(Fault("evidence", "HOST and --csv", "give one of them"))
    if arguments.csv is not None and arguments.inventory is None:
        found.append(Fault("evidence", "--csv", "needs --inventory FILE"))
    if arguments.csv is not None and arguments.output is not None:
        found.append(Fault("evidence", "--output", "is for an archive: --csv names its own file"))
    for name, target in (("--output", arguments.output), ("--csv", arguments.csv)):
        if target is not None and not Path(target).absolute().parent.is_dir():
            found.append(Fault("evidence", name, f"found {target}: its folder does not exist"))
    return found


def _run_with(host: str, given: str | None) -> Recorded | None:
    """The run whose findings go along; None when there is none."""
    if given is not None:
        one = find_verify(given)
        if one.run is not None and host not in one.run.hosts:
            why = f"does not have {printable(host)}"
            raise WrongInput([Fault("evidence", printable(given), why)])
        return one
    for one in recorded():
        if one.verifies and one.run is not None and host in one.run.hosts:
            return one
    return None


def _gather(host: Host, fleet: Fleet, found: Recorded | None, output: str | None) -> int:
    secrets = redactor(fleet)
    print(f"asking {host.name} for evidence (up to {GATHER_S:.0f} s)", file=sys.stderr)
    sources, trouble = _asked(host, found)
    files = pieces(sources, secrets)
    view = read_view(found) if found is not None else None
    if view is not None:
        files += _findings(host.name, view, secrets)
    missing = [one for one in files if one.missing]
    about = {
        "host": host.name,
        "gathered": now(),
        "by": controller(),
        "gpufleet": importlib.metadata.version("gpufleet"),
        "bundle": bundle().id,
        "run": view.run.id if view else None,
        "simulated": bool(view and host.name in view.simulated),
        "trouble": clean(trouble, secrets) or None,
        "redacted": "secrets, keys, environment variables, e-mail, network and MAC addresses, "
        "users, arguments of commands",
    }
    stem = f"{file_name(host.name)}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    place = Path(output or f"evidence-{stem}.tar.gz")
    _write(place, archive(f"gpufleet-evidence-{stem}", about, files))
    print(f"{place}: {len([one for one in files if one.text])} files and manifest.json")
    for one in missing:
        how = "only a part of" if one.text else "without"
        print(f"  {how} {one.file}: {printable(one.missing)[:160]}")
    if trouble:
        print(f"{printable(trouble)}; the archive holds what this controller knows")
    hung = [one for one in files if one.hung]
    return exits.NOT_LOOKED_AT if trouble or hung else exits.OK


def _asked(host: Host, found: Recorded | None) -> tuple[list[Source], str]:
    """What the host sends, or why it sends nothing."""
    request = {"schema": 1, **_window(found)}
    out = deep.output(
        host, bundle(), "gather", lambda _: request, whole_s=GATHER_S, limit=MOST_PACKED
    )
    if isinstance(out, Answer):
        return [], out.message
    try:
        return read(out), ""
    except BadEvidence as bad:
        return [], f"{host.name}: {bad}"


def _window(found: Recorded | None) -> dict[str, float]:
    """Around the run, for the kernel's log; nothing without a run."""
    if found is None or found.run is None:
        return {"since": 0, "until": 0}
    try:
        began = datetime.fromisoformat(found.run.started)
        ended = datetime.fromisoformat(found.run.ended) if found.run.ended else began
        return {"since": (began - BEFORE).timestamp(), "until": (ended + AFTER).timestamp()}
    except (ValueError, TypeError):
        return {"since": 0, "until": 0}


def _findings(name: str, view: View, secrets: Any) -> Iterator[Piece]:
    """What a run says of the host, for people and for machines."""
    one = view.hosts[name]
    source = f"gpufleet explain {name} {view.run.id}"
    lines = [text for _, text in of_host(name, view, WIDTH) if not text.startswith("in use: ")]
    yield Piece("findings.txt", clean("\n".join(lines) + "\n", secrets, addresses=False), source, 0)
    document = secrets.within(findings_of(one))
    text = clean(json.dumps(document, indent=1) + "\n", secrets, addresses=False)
    yield Piece("findings.json", text, f"hosts/{name}.json of run {view.run.id}", 0)


def _write(place: Path, data: bytes) -> None:
    """For its owner alone: serials and logs are nobody else's. Raises WrongInput."""
    partial = place.with_name(f".{place.name}.partial")
    try:
        opened = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(opened, "wb") as file:
            file.write(data)
        partial.replace(place)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        why = f"found {place}: it cannot be written ({error.strerror})"
        raise WrongInput([Fault("evidence", "--output", why)]) from None


# ---- the inventory of serials


def _table(arguments: argparse.Namespace) -> int:
    fleet = read_inventory(arguments.inventory)
    known = dict(_newest(fleet))
    hosts = [(name, *known.get(name, (None, ""))) for name in fleet.hosts]
    written = rows(hosts)
    _write(Path(arguments.csv), table(written).encode())
    unknown = [row["host"] for row in written if not row.get("uuid")]
    print(f"{arguments.csv}: {len(written) - len(unknown)} GPUs of {len(fleet.hosts)} hosts, from "
          "the newest verify run of each")  # fmt: skip
    if unknown:
        print(f"without GPUs: {', '.join(unknown[:8])}: gpufleet verify {arguments.inventory}")
    return exits.NOT_LOOKED_AT if unknown else exits.OK


def _newest(fleet: Fleet) -> Iterator[tuple[str, tuple[HostVerification, str]]]:
    """The newest run of this inventory in which each host has told of itself, and its id."""
    left = set(fleet.hosts)
    for one in recorded():
        if not left or one.run is None or not one.verifies:
            continue
        if Path(one.run.inventory).name != (fleet.path.name if fleet.path else ""):
            continue
        for name, host in read_view(one).hosts.items():
            if name in left and host.result is not None:
                left.discard(name)
                yield name, (host, one.run.id)
