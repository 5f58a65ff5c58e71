"""One reader per part of the probe's answer: lines in, values of `NodeFacts` out. Pure.

A reader raises ValueError (or IndexError, KeyError) on lines that make no sense; the caller turns
that into "unknown". Single values that are missing are left out, or explained in `unknown`.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from deploy.facts import (
    Cuda,
    Disk,
    Environment,
    Os,
    OwnFile,
    PciDevice,
    PythonBuild,
    PythonFacts,
    Service,
)
from deploy.probing.apt_facts import read_apt, read_candidates, read_packages
from deploy.probing.kernel_facts import read_kernel, read_modules
from deploy.probing.rdma_facts import read_cdi, read_rdma
from deploy.probing.rpm_facts import read_dnf, read_rpm_candidates, read_rpm_packages
from deploy.probing.setting_facts import read_params, read_settings
from deploy.probing.use_facts import read_slurm, read_users

Values = dict[str, Any]
Reader = Callable[[list[str], bool, dict[str, str]], Values]
"""Lines, whether the probe ran as root, and the reasons for what is unknown (added to)."""


def tags(lines: Iterable[str]) -> dict[str, list[str]]:
    """Lines of the form `tag rest`, by tag."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        tag, _, rest = line.partition(" ")
        found[tag].append(rest)
    return found


def read_system(lines: list[str], root: bool, unknown: dict[str, str]) -> Values:
    found = tags(lines)
    release = dict(line.partition("=")[::2] for line in found["os"])
    release = {key: _unquoted(value) for key, value in release.items()}
    values: Values = {
        "os": Os(
            id=release["ID"],
            version_id=release.get("VERSION_ID", ""),
            codename=release.get("VERSION_CODENAME", ""),
            pretty_name=release.get("PRETTY_NAME", ""),
            id_like=tuple(release.get("ID_LIKE", "").split()),
            arch=found["arch"][0],
        ),
        "kernel": read_kernel(found),
    }
    boot_id = " ".join(found["boot"])
    if re.fullmatch(r"[0-9a-f-]{36}", boot_id):
        values["boot_id"] = boot_id
    if found["uptime"]:
        values["uptime_s"] = int(float(found["uptime"][0].split()[0]))
    if found["container"]:
        values["container"] = found["container"][0].replace("none", "")
    secure = {
        "no-efi": "no-efi",
        "0": "disabled",
        "1": "enabled",
        "SecureBoot enabled": "enabled",
        "SecureBoot disabled": "disabled",
    }.get(" ".join(found["secure"]))
    if secure:
        values["secure_boot"] = secure
    else:
        unknown["secure_boot"] = "neither the firmware's variable nor mokutil tells"
    return values


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return (value[1:-1] if quoted else value)[:200]


def read_pci(lines: list[str], root: bool, unknown: dict[str, str]) -> Values:
    devices = []
    for line in lines:
        _tag, slot, device, pci_class, subsystem, revision, driver = line.split(" ")
        devices.append(
            PciDevice(
                slot=slot,
                device=_hex(device, 4),
                pci_class=_hex(pci_class, 6),
                subsystem=":".join(_hex(word, 4) for word in subsystem.split(":")),
                revision="" if revision == "-" else _hex(revision, 2),
                driver="" if driver == "-" else driver,
            )
        )
    return {"pci": tuple(devices)}


def _hex(word: str, digits: int) -> str:
    bare = word.removeprefix("0x").lower()
    if not re.fullmatch(r"[0-9a-f]{1,8}", bare):
        raise ValueError(f"{word!r} is no hexadecimal number")
    return bare.zfill(digits)


def read_services(lines: list[str], root: bool, unknown: dict[str, str]) -> Values:
    services: dict[str, Service] = {}
    for block in "\n".join(lines).split("\n\n"):
        values = dict(line.partition("=")[::2] for line in block.splitlines())
        services[values["Id"]] = Service(
            load=values["LoadState"],
            active=values["ActiveState"],
            enabled=values.get("UnitFileState", ""),
        )
    return {"services": services}


def read_environments(lines: list[str], root: bool, unknown: dict[str, str]) -> Values:
    current = ""
    environments: list[dict[str, Any]] = []
    builds: list[dict[str, Any]] = []
    last: dict[str, Any] = {}
    for line in lines:
        tag, _, rest = line.partition(" ")
        if tag == "current":
            current = rest.rstrip("/").rsplit("/", 1)[-1]
        elif tag == "env":
            last = {"id": rest, "in_use": False, "wheels": {}, "python": ""}
            environments.append(last)
        elif tag == "build":
            last = {"name": rest, "in_use": False, "manifest": ""}
            builds.append(last)
        elif tag in {"manifest", "found", "python"}:
            last[tag] = rest
        elif tag == "dist":
            name, _, version = rest.rpartition("-")
            last["wheels"][_normalised(name)] = version
        elif tag == "in-use":
            last["in_use"] = True
        elif tag not in {"blind", ""}:
            raise ValueError(f"tag {tag[:20]!r}")
    if "blind" in lines and (environments or builds):
        unknown["environments.in_use"] = "only root sees what other users' processes have mapped"
    return {
        "environments": tuple(
            Environment(
                id=env["id"],
                current=env["id"] == current,
                complete="manifest" in env,
                manifest=env.get("manifest", ""),
                found=env["found"],
                in_use=env["in_use"],
                wheels=env["wheels"],
                python=env["python"],
            )
            for env in environments
        ),
        "pythons": tuple(PythonBuild(**build) for build in builds),
    }


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def read_software(lines: list[str], root: bool, unknown: dict[str, str]) -> Values:
    found = tags(lines)
    return {
        "cuda": Cuda(
            link="".join(found["cuda-link"][:1]), toolkits=tuple(sorted(found["toolkit"]))
        ),
        "python": PythonFacts(
            version="".join(found["python"][:1]),
            venv="python-venv" in found,
            headers="python-headers" in found,
        ),
        "compiler": "".join(found["compiler"][:1]),
        "tools": tuple(sorted(found["tool"])),
    }


def read_disks(lines: list[str], root: bool, unknown: dict[str, str]) -> Values:
    disks = {}
    for space, mount in zip(lines[::2], lines[1::2], strict=True):
        _, path, block, blocks, free = space.split(" ")
        if mount not in {"mount ro", "mount rw"}:
            raise ValueError(f"{mount[:20]!r} is no mount")
        disks[path] = Disk(
            size=int(block) * int(blocks),
            available=int(block) * int(free),
            read_only=mount == "mount ro",
        )
    return {"disks": disks}


def read_foreign(lines: list[str], root: bool, unknown: dict[str, str]) -> Values:
    found = tags(lines)
    release = dict(line.partition("=")[::2] for line in found["dgx"])
    version = _unquoted(release.get("DGX_SWBUILD_VERSION", ""))
    return {"foreign_paths": found["path"], "dgx_version": version}


def read_files(lines: list[str], root: bool, unknown: dict[str, str]) -> Values:
    files = {}
    for line in lines:
        _tag, digest, mode, path = line.split("\t")
        if not digest:
            unknown[f"files.{path}"] = "only root can read it"
            continue
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ValueError(f"{digest[:20]!r} is no digest")
        files[path] = OwnFile(sha256=digest, mode=mode)
    return {"files": files}


def read_state(lines: list[str], root: bool, unknown: dict[str, str]) -> Values:
    pairs = (line.partition(" ")[2].partition("=") for line in lines)
    return {"state": {key: value for key, equals, value in pairs if equals}}


def _by_tag(start: str, here: Reader, otherwise: Reader) -> Reader:
    """The reader of a part whose lines depend on the host's package system."""

    def read(lines: list[str], root: bool, unknown: dict[str, str]) -> Values:
        mine = lines[:1] != [] and lines[0].startswith(start)
        return (here if mine else otherwise)(lines, root, unknown)

    return read


READERS: dict[str, Reader] = {
    "system": read_system,
    "pci": read_pci,
    "modules": read_modules,
    "packages": _by_tag("rpm\t", read_rpm_packages, read_packages),
    "candidates": _by_tag("dnf\t", read_rpm_candidates, read_candidates),
    "manager": _by_tag("family apt", read_apt, read_dnf),
    "services": read_services,
    "environments": read_environments,
    "software": read_software,
    "disks": read_disks,
    "users": read_users,
    "slurm": read_slurm,
    "foreign": read_foreign,
    "files": read_files,
    "state": read_state,
    "settings": read_settings,
    "params": read_params,
    "rdma": read_rdma,
    "cdi": read_cdi,
}

FIELDS: dict[str, tuple[str, ...]] = {
    "system": ("os", "kernel", "boot_id", "uptime_s", "container", "secure_boot"),
    "pci": ("pci",),
    "modules": ("modules", "mig"),
    "packages": ("packages", "dpkg"),
    "candidates": ("candidates",),
    "manager": (
        *("packaging", "pins", "ignored_pins", "sources", "auto_upgrades"),
        *("streams", "versionlocks", "own_versionlocks"),
    ),
    "services": ("services",),
    "environments": ("environments", "pythons"),
    "software": ("cuda", "python", "compiler", "tools"),
    "disks": ("disks",),
    "users": ("gpu_users",),
    "slurm": ("slurm_jobs",),
    "foreign": (),
    "files": ("files",),
    "state": ("state",),
    "settings": ("gpu_settings",),
    "params": ("module_params",),
    "rdma": ("rdma",),
    "cdi": ("cdi",),
}
"""Fields that are unknown when a part is."""
