"""What an inventory file says, before and after pyinfra merges it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb
from typing import Any

from deploy.fleet.errors import Fault, WrongInput


@dataclass(frozen=True)
class Group:
    """One group as written: hosts with their own data, and data of the whole group."""

    name: str
    hosts: tuple[tuple[str, dict[str, Any]], ...]
    data: dict[str, Any]


@dataclass(frozen=True)
class Said:
    groups: tuple[Group, ...]
    """As written."""
    faults: tuple[Fault, ...]
    """What is malformed or dropped by pyinfra; the rest can still be checked."""
    hosts: tuple[tuple[str, tuple[str, ...], dict[str, Any]], ...]
    """Name, groups and merged values of every host: pyinfra's own merge."""


def read_file(path: str) -> Said:
    """Run an inventory file through pyinfra's loader.

    The file is the user's own program and may do anything, so whatever it raises becomes a fault
    that names its line. Raises WrongInput when there is nothing to check at all.
    """
    if not Path(path).is_file():
        hint = "; to name hosts without an inventory use -w" if not Path(path).exists() else ""
        raise WrongInput([Fault(path, "", f"is no inventory file{hint}")])
    from pyinfra.api.state import State
    from pyinfra.context import ctx_state
    from pyinfra_cli import inventory as loader  # type: ignore[import-untyped]

    from deploy.fleet.watched import Watched

    original = loader.Inventory
    loader.Inventory = Watched
    try:
        with _complaints() as complaints, ctx_state.use(State()):
            made = loader.make_inventory(path)
    except (Exception, SystemExit) as error:
        raise WrongInput([_broken(path, error)]) from None
    finally:
        loader.Inventory = original
    if not isinstance(made, Watched):
        raise AssertionError("pyinfra's loader no longer builds its Inventory by that name")
    faults = [Fault(path, fault.where, fault.message) for fault in made.faults]
    faults += [Fault(path, "", complaint) for complaint in complaints]
    hosts = tuple(
        (host.name, tuple(dict.fromkeys(host.groups)), _merged(host.data)) for host in made
    )
    return Said(made.said, tuple(faults), hosts)


def _merged(data: Any) -> dict[str, Any]:
    return dict(data.dict())


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect pyinfra's warnings: it drops what it does not understand and only logs that."""
    found: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(f"{record.getMessage()} (a list that is no group starts with _)")

    log = logging.getLogger("pyinfra")
    handler = Collector(logging.WARNING)
    log.addHandler(handler)
    try:
        yield found
    finally:
        log.removeHandler(handler)


def _broken(path: str, error: BaseException) -> Fault:
    cause = getattr(error, "exception", error)  # pyinfra wraps what user code raised
    if isinstance(cause, SyntaxError):
        return Fault(path, "", f"line {cause.lineno}: not Python: {cause.msg}")
    lines = [frame.lineno for frame in extract_tb(cause.__traceback__) if frame.filename == path]
    where = f"line {lines[-1]}: " if lines else ""
    return Fault(path, "", f"{where}{type(cause).__name__}: {str(cause)[:300]}")
