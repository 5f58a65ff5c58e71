"""The lock: the fleet's stacks with full versions and hashes, one reviewable file.

JSON, sorted, the same bytes for the same content. It carries a digest of itself, so that an edit
by hand or a merge gone wrong is refused instead of applied.
"""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from deploy.fleet.errors import Fault, WrongInput
from deploy.fleet.model import Model
from deploy.fleet.spec import NodeSpec
from deploy.keys import WrongKey, check_key
from deploy.layers.dcgm import UNIT as DCGM
from deploy.layers.fabric import UNIT as FABRIC
from deploy.layers.persistence import UNIT as PERSISTENCE
from deploy.layers.torch_env import versions
from deploy.packages import locked
from deploy.stack import Stack

VERSION = 3
ABOUT = "Written by `gpufleet lock`. Review it, commit it, change it with that command only."

DECIDES = frozenset(
    {
        *("policy", "origin", "driver", "driver_modules", "cuda", "cudnn", "nccl"),
        *("dcgm", "container_toolkit"),
        *("torch", "torch_build", "same_torch", "python", "python_downloads", "env", "extras"),
        *("vendor_repository", "vendor_key_fingerprint"),
        *("python_index", "torch_index", "find_links"),
    }
)
"""Inventory keys that decide a stack. The others say how to apply it and need no new lock."""


class HostLock(Model):
    """One host's line in the lock."""

    stack: str
    """Id of its stack."""
    spec: str
    """Digest of the wish that the stack answers."""


class Lock(Model):
    """The whole file."""

    about: str = ABOUT
    version: int = VERSION
    stacks: dict[str, Stack]
    hosts: dict[str, HostLock]
    blocked: dict[str, str] = Field(default_factory=dict)
    """Hosts of the inventory that have no stack, and why; each `gpufleet lock` tries them again."""
    digest: str = ""

    def sealed(self) -> "Lock":
        """The same with the digest of its content, without stacks that no host has."""
        used = {host.stack for host in self.hosts.values()}
        stacks = {name: stack for name, stack in self.stacks.items() if name in used}
        content = self.model_copy(update={"stacks": stacks})
        return content.model_copy(update={"digest": _digest(content.model_dump(mode="json"))})

    def stack_of(self, host: str) -> Stack | None:
        """The stack that a host is locked to, None when it has none."""
        entry = self.hosts.get(host)
        return self.stacks[entry.stack] if entry else None


def spec_digest(spec: NodeSpec) -> str:
    """Digest of the wishes that decide a stack, defaults left out, so that a new key with its
    default makes no lock stale."""
    wishes = spec.model_dump(mode="json", include=set(DECIDES), exclude_defaults=True)
    return hashlib.sha256(json.dumps(wishes, sort_keys=True).encode()).hexdigest()


EXPECTED_VERSION = 1
"""Of the form of a host's expected state; verification refuses one that it does not know."""


def expected_state(
    host: str, spec: NodeSpec, stack: Stack, *, gpus: int | None, nvswitches: int | None
) -> dict[str, Any]:
    """What verification expects of a host at this stack, as plain JSON values.

    No times in it: equal for equal stacks and hardware. None for a count leaves it to what the
    host itself has recorded.
    """
    driver, environment = stack.driver, stack.environment
    services = [PERSISTENCE] if driver and spec.persistence else []
    services += [FABRIC] if driver and stack.fabric else []
    services += [DCGM] if driver and stack.dcgm else []
    return {
        "version": EXPECTED_VERSION,
        "host": host,
        "stack": stack.id,
        "gpus": gpus,
        "nvswitches": nvswitches,
        "driver": {
            "branch": driver.branch,
            "version": driver.version,
            "flavour": driver.flavour,
        }
        if driver
        else None,
        "fabric": stack.fabric.version if stack.fabric else None,
        "imex": stack.imex.version if stack.imex else None,
        "cuda": stack.cuda.version if stack.cuda else None,
        "cudnn": stack.cudnn.version if stack.cudnn else None,
        "nccl": stack.nccl.version if stack.nccl else None,
        "dcgm": stack.dcgm.version if stack.dcgm else None,
        "container_toolkit": stack.container_toolkit.version if stack.container_toolkit else None,
        "packages": {name: pin.version for name, pin in sorted(locked(stack).items())},
        "services": services,
        "prefix": spec.prefix,
        "library_path": spec.library_path,
        "persistence": spec.persistence,
        "mig": None if spec.mig is None else sorted(spec.mig),
        "ecc": spec.ecc,
        "power_limit": spec.power_limit,
        "mounts": sorted(spec.mounts),
        "network_ports": spec.network_ports,
        "thresholds": dict(spec.thresholds),
        "environment": {
            "id": environment.id,
            "path": f"{spec.prefix}/envs/{environment.id}",
            "python": environment.python,
            "torch": environment.torch,
            "build": environment.build,
            "wheels": versions(environment),
        }
        if environment
        else None,
    }


def lock_path(inventory: Path) -> Path:
    """Where an inventory's lock is: inventories/lab.py -> inventories/lab.lock."""
    return inventory.with_suffix(".lock")


def read_lock(path: Path) -> Lock | None:
    """The lock, None when there is no file.

    Raises WrongInput when it is damaged, edited by hand, of another version of gpufleet, or holds
    a key that is not the one it names: nothing is done from a lock that cannot be trusted.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _refused(path, f"cannot be read: {error}") from None
    try:
        content = json.loads(text, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        merged = "<<<<<<<" in text
        what = "holds marks of an unfinished merge" if merged else f"is no JSON: {error}"
        raise _refused(path, what) from None
    if not isinstance(content, dict) or "version" not in content:
        raise _refused(path, "is no lock of gpufleet")
    if content["version"] != VERSION:
        raise _refused(
            path,
            f"is of version {str(content['version'])[:20]}, this gpufleet writes and reads "
            f"{VERSION}",
        )
    if content.get("digest") != _digest(content):
        raise _refused(path, "was edited by hand or damaged: its digest does not fit its content")
    try:
        lock = Lock.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _refused(path, f"{where}: {first['msg']}") from None
    _check(path, lock)
    return lock


def write_lock(path: Path, lock: Lock) -> None:
    """Write the lock whole or not at all; a file that says the same already is not touched.

    Raises WrongInput when the folder cannot be written.
    """
    text = json.dumps(lock.sealed().model_dump(mode="json"), indent=1, sort_keys=True) + "\n"
    try:
        if path.is_file() and path.read_bytes() == text.encode():
            return
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise WrongInput([Fault(str(path), "", f"cannot be written: {error.strerror}")]) from None


def _digest(content: dict[str, Any]) -> str:
    plain = {key: value for key, value in content.items() if key not in ("digest", "about")}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _check(path: Path, lock: Lock) -> None:
    way_out = _way_out(path)
    faults = [
        Fault(str(path), f"stacks.{name}", f"its content has the id {stack.id}; {way_out}")
        for name, stack in lock.stacks.items()
        if name != stack.id
    ]
    faults += [
        Fault(
            str(path), f"hosts.{name}", f"names stack {host.stack}, which is not there; {way_out}"
        )
        for name, host in lock.hosts.items()
        if host.stack not in lock.stacks
    ]
    for repository in {stack.repository for stack in lock.stacks.values() if stack.repository}:
        try:
            check_key(repository)
        except WrongKey as error:
            faults.append(Fault(str(path), repository.url, f"{error}; {way_out}"))
    if faults:
        raise WrongInput(faults)


def _refused(path: Path, what: str) -> WrongInput:
    return WrongInput([Fault(str(path), "", f"{what}; {_way_out(path)}")])


def _way_out(path: Path) -> str:
    return (
        "restore it from version control, or solve anew: "
        f"remove the file and run gpufleet lock {path.with_suffix('.py')}"
    )
