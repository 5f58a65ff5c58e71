"""Reads run directories: this controller's, and those of others, which are data to be judged.

Files are bounded in size and validated whole; a host's file that cannot be used concerns that host
alone, and says why.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from pydantic import ValidationError

from deploy.fleet.errors import Fault, WrongInput
from deploy.fleet.names import name_fault
from deploy.fleet.runs import RUNS, VERSION, RunFile, file_name, printable
from verify.report.view import View
from verify.results import HostVerification

PAGE = "report.html"
"""The HTML page in a run directory."""
MOST_BYTES = 32 * 1024 * 1024
"""Of one file in a run directory."""
MOST_RUNS = 500
"""Newest directories below runs/ that are looked at."""


@dataclass(frozen=True)
class Recorded:
    """One run directory below runs/."""

    place: Path
    run: RunFile | None
    fault: str = ""
    """Why run.json cannot be used."""

    @property
    def verifies(self) -> bool:
        return self.run is not None and self.run.command[1:2] == ("verify",)


def recorded(root: Path = RUNS) -> Iterator[Recorded]:
    """The runs below `root`, the newest first; a directory that is none comes with its fault."""
    try:
        names = sorted((path.name for path in root.iterdir() if path.is_dir()), key=_age)
    except OSError:
        return
    for name in reversed(names[-MOST_RUNS:]):
        yield look(root / name)


def look(place: Path) -> Recorded:
    """One run directory."""
    try:
        return Recorded(place, _run_file(place / "run.json"))
    except (OSError, ValueError) as error:
        return Recorded(place, None, _reason(error))


def find(name: str | None, root: Path = RUNS) -> Recorded:
    """The run of that id, or in that directory; without a name the newest verify run.

    Raises WrongInput when there is none, or none that can be used.
    """
    if name is None:
        for one in recorded(root):
            if one.verifies:
                return one
        why = "holds no verify run: gpufleet verify INVENTORY makes one"
        raise WrongInput([Fault(f"{root}/", "", why)])
    place = Path(name) if "/" in name or not (root / name).is_dir() else root / name
    found = look(place)
    if found.run is None:
        why = found.fault
        if not place.is_dir():
            known = [printable(one.place.name) for one in recorded(root)]
            near = get_close_matches(name, known, n=3, cutoff=0.6) or known[:3]
            why = f"is no run directory; there are {', '.join(near) or 'none'}"
        raise WrongInput([Fault(printable(name), "", why)])
    return found


def find_verify(name: str | None, root: Path = RUNS) -> Recorded:
    """As `find`, but refuses a run of another command."""
    found = find(name, root)
    if not found.verifies:
        words = " ".join(found.run.command) if found.run else ""
        why = f"is no verify run: found {printable(words)!r}"
        raise WrongInput([Fault(printable(str(found.place)), "", why)])
    return found


def read_view(found: Recorded) -> View:
    """Everything that is shown of a verify run. A host whose file is missing or bad is not-run."""
    if found.run is None:
        raise AssertionError("a run that cannot be read was not refused")
    page = found.place / PAGE
    return View(
        run=found.run,
        place=str(found.place),
        hosts={host: _host(found, host, status) for host, status in found.run.hosts.items()},
        page=str(page) if page.is_file() else "",
    )


def _host(found: Recorded, host: str, status: str) -> HostVerification:
    path = found.place / "hosts" / f"{file_name(host)}.json"
    try:
        document = json.loads(_bounded(path))
        document = {key: value for key, value in document.items() if key in _KEYS}
        one = HostVerification.model_validate_json(json.dumps(document))
        if one.host != host or (one.result and one.result.host != host):
            raise ValueError("it is the result of another host")
        return one
    except FileNotFoundError:
        over = found.run is not None and found.run.state != "running"
        why = "the run ended before this host did" if over else "it has no result yet"
        if status != "pending":
            why = f"{path} is missing"
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        why = f"{path} cannot be used: {_reason(error)}"
    return HostVerification(host=host, verdict="not-run", action="keep", message=why, result=None)


_KEYS = frozenset(HostVerification.model_fields)


def _run_file(path: Path) -> RunFile:
    run = RunFile.model_validate_json(_bounded(path))
    if run.version != VERSION:
        raise ValueError(f"run.json is of version {run.version}, this gpufleet reads {VERSION}")
    wrong = [host for host in run.hosts if name_fault(host)]
    if wrong:
        raise ValueError(f"run.json names a host {wrong[0][:40]!r}, which is no host name")
    return run


def _bounded(path: Path) -> bytes:
    if not path.is_file() and path.exists():
        raise ValueError(f"{path.name} is no file")
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"{path.name} is larger than {MOST_BYTES // 1024**2} MiB")
    return data


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        text = f"{where}: {first['msg']}" if where else first["msg"]
    elif isinstance(error, OSError):
        text = f"{Path(str(error.filename)).name}: {os.strerror(error.errno or 0)}"
    else:
        text = str(error)
    return printable(text)[:300]


def _age(name: str) -> tuple[str, int]:
    """Run ids in the order of time: 20261122T120258Z-10 after 20261122T120258Z-2."""
    stem, _, number = name.partition("-")
    return stem, int(number) if number.isascii() and number.isdigit() and len(number) < 9 else 0
