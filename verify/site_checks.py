"""A site's own checks: a folder of test files that travel with ours, without touching our tree."""

import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from deploy.fleet.errors import Fault, WrongInput
from verify.checks import Check

FOLDER = "checks"
"""Looked for beside the inventory when no other is named."""
PLACE = "verify/site"
"""Where they lie in the bundle: below verify/, so that our fixtures are theirs."""
MOST_BYTES = 1_000_000
SUFFIXES = (".py", ".json")


@dataclass(frozen=True)
class Site:
    """What a site adds."""

    checks: dict[str, Check] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    """Path in the bundle -> content."""


def folder_of(inventory: Path, given: str | None) -> Path | None:
    """The folder that is meant; None when none was named and none lies beside the inventory."""
    if given is not None:
        return Path(given)
    beside = inventory.absolute().parent / FOLDER
    return beside if beside.is_dir() else None


def read_site(folder: Path | None, ours: dict[str, Check]) -> Site:
    """The checks in a folder. They are Python of the site's own, and are imported here to be known.

    Raises WrongInput with everything that is wrong: a file that cannot be imported or read, one
    without a check, an id of ours or given twice, a family of ours, too many bytes.
    """
    if folder is None:
        return Site()
    faults: list[Fault] = []
    files: dict[str, bytes] = {f"{PLACE}/__init__.py": b""}
    for path in sorted(folder.iterdir()):
        if path.suffix in SUFFIXES and path.is_file():
            files[f"{PLACE}/{path.name}"] = path.read_bytes()
    size = sum(map(len, files.values()))
    if size > MOST_BYTES:
        faults.append(Fault(str(folder), "", f"holds {size} bytes: at most {MOST_BYTES} travel"))
    families = {id.partition(".")[0] for id in ours}
    checks: dict[str, Check] = {}
    for path in sorted(folder.glob("test_*.py")):
        for one in _checks(path, faults):
            if one.id in checks:
                faults.append(Fault(str(path), one.id, "is the id of another check there"))
            elif one.id.partition(".")[0] in families:
                own = "is of a family of ours: wanted a family of your own, as site.scratch"
                faults.append(Fault(str(path), one.id, own))
            checks[one.id] = one
    if not checks and not faults:
        faults.append(Fault(str(folder), "", "holds no check: wanted test_*.py with @check(...)"))
    if faults:
        raise WrongInput(faults)
    return Site(checks, files)


def _checks(path: Path, faults: list[Fault]) -> list[Check]:
    try:
        module = _imported(path)
    except Exception as error:  # anything may be wrong in somebody's file
        faults.append(Fault(str(path), "", f"cannot be imported: {type(error).__name__}: {error}"))
        return []
    found = [getattr(one, "check", None) for one in vars(module).values()]
    checks = [one for one in found if isinstance(one, Check)]
    if not checks:
        faults.append(Fault(str(path), "", "holds no check: wanted a function with @check(...)"))
    return checks


def _imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"gpufleet_site_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = written
    return module
