"""`check-torch`: the rows of torch against the wheels that a package index serves today.

uv locks each release alone, which reads the metadata of its wheels without fetching them, and the
lock says: which Pythons and machine types have wheels, what each wheel asks for on each machine
type, and which exact versions that means today. A pin that the row calls exact and the metadata
leaves floating shows only once a newer version is out.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version
from uv import find_uv_bin

from deploy.catalog.agree_torch import MACHINES
from deploy.catalog.models import Catalogue, TorchBuild, TorchRelease, numbers
from deploy.fleet.redact import Redactor

TIMEOUT_S = 120
"""For one lock: metadata of some forty packages."""

NEWEST = f"{sys.version_info[0]}.{sys.version_info[1]}"
"""Python for which the newest release is asked: uv locks for its own and later ones."""

OWN = re.compile(r"(nvidia|cuda|triton|pytorch-triton)(-|$)")
"""Names of what a CUDA wheel asks for and a CPU wheel does not."""

Lock = dict[str, Any]


class AskError(Exception):
    """uv could not answer; the message is what it said."""


def check_torch(catalogue: Catalogue, index: str) -> list[str]:
    """Every difference between torch in the catalogue and in the index, one line each.

    `index`: address of the index, "" for the one that uv is configured with. Raises AskError.
    """
    found = _newer(catalogue, _lock(["torch"], NEWEST, index))
    for row in catalogue.torch:
        found += check_release(row, index)
    return found


def check_release(row: TorchRelease, index: str) -> list[str]:
    """Every difference between a row and the default wheels of its release, companions included.
    Raises AskError."""
    found = differences(row, lock_of(row, index))
    companions = [
        f"{name}=={version}"
        for name, version in (("torchvision", row.torchvision), ("torchaudio", row.torchaudio))
        if version
    ]
    try:
        _lock([f"torch=={row.version}", *companions], row.pythons[0], index)
    except AskError as error:
        if "No solution found" not in str(error):
            raise
        found.append(f"torch {row.version} does not go with {' and '.join(companions)}: {error}")
    return found


def _newer(catalogue: Catalogue, lock: Lock) -> list[str]:
    """A release that the index has and the catalogue has not."""
    newest = max(Version(one["version"]) for one in lock["package"] if one["name"] == "torch")
    if newest > Version(catalogue.torch[0].version):
        return [f"torch {newest.public} is in the index and has no row"]
    return []


def lock_of(row: TorchRelease, index: str) -> Lock:
    """uv's lock of a release, from one Python below the row's first one on where the release
    allows that, so that a forgotten Python shows. Raises AskError."""
    wish = [f"torch=={row.version}"]
    major, minor = numbers(row.pythons[0])
    try:
        return _lock(wish, f"{major}.{minor - 1}", index)
    except AskError as error:
        if "depends on Python" not in str(error):
            raise
    return _lock(wish, row.pythons[0], index)


def _lock(requirements: list[str], python: str, index: str) -> Lock:
    """What uv locks for these requirements on Linux, for Python from `python` on."""
    machines = ", ".join(
        f"\"sys_platform == 'linux' and platform_machine == '{one}'\"" for one in MACHINES
    )
    project = (
        f'[project]\nname = "check-torch"\nversion = "0"\nrequires-python = ">={python}"\n'
        f"dependencies = {requirements}\n"
        f"[tool.uv]\nenvironments = [{machines}]\nno-build = true\n"
    )
    command = [find_uv_bin(), "lock", "--quiet", "--no-progress", "--python", sys.executable]
    command += ["--no-python-downloads", *(("--default-index", index) if index else ())]
    with tempfile.TemporaryDirectory(prefix="gpufleet-uv-") as folder:
        Path(folder, "pyproject.toml").write_text(project)
        try:
            ran = subprocess.run(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise AskError(f"uv had no answer after {TIMEOUT_S} s") from None
        if ran.returncode:
            told = Redactor()(" ".join(ran.stderr.split())[:2000])
            raise AskError(told or "uv failed and said nothing")
        return tomllib.loads(Path(folder, "uv.lock").read_text())


def differences(row: TorchRelease, lock: Lock) -> list[str]:
    """What the lock of a release says other than its row."""
    packages = lock.get("package", [])
    torch = next((one for one in packages if one["name"] == "torch"), None)
    if torch is None or torch["version"] != row.version:
        return [f"torch {row.version}: the index has no such release"]
    locked: dict[str, set[str]] = {}
    for one in packages:
        locked.setdefault(canonicalize_name(one["name"]), set()).add(one.get("version", ""))
    found = []
    for machine in MACHINES:
        build = next((one for one in row.builds if one.pypi and one.machine == machine), None)
        asked = _asked(torch, machine, row.pythons[-1] if "3.12" not in row.pythons else "3.12")
        name = f"torch {row.version} for {machine}"
        if build is None:
            if asked:
                found.append(f"{name}: cpu_wheel says no CUDA, the wheel asks for {asked[0]}")
            continue
        pythons = _pythons(torch, machine)
        if pythons != set(row.pythons):
            found.append(
                f"{name}: the row says Python {', '.join(row.pythons)}, the wheels are for "
                f"{', '.join(sorted(pythons, key=numbers)) or 'none'}"
            )
        found += [f"{name}: {fault}" for fault in _pins(build, asked, locked)]
    return found


def _asked(torch: Lock, machine: str, python: str) -> list[str]:
    """Names of the CUDA packages that the wheel asks for on a machine type."""
    values = {
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": machine,
        "python_version": python,
        "python_full_version": f"{python}.0",
    }
    return sorted(
        canonicalize_name(one["name"])
        for one in torch.get("dependencies", [])
        if OWN.match(canonicalize_name(one["name"]))
        and ("marker" not in one or Marker(one["marker"]).evaluate(values))
    )


def _pythons(torch: Lock, machine: str) -> set[str]:
    """Minor versions of Python with a wheel for a machine type, free-threaded ones left out."""
    found = set()
    for wheel in torch.get("wheels", []):
        try:
            *_, tags = parse_wheel_filename(wheel["url"].rsplit("/", 1)[-1])
        except InvalidWheelFilename:
            continue
        for tag in tags:
            if tag.platform.endswith(machine) and tag.abi == tag.interpreter:
                found.add(f"{tag.interpreter[2]}.{tag.interpreter[3:]}")
    return found


def _pins(build: TorchBuild, asked: list[str], locked: dict[str, set[str]]) -> list[str]:
    major = build.cuda.split(".")[0]
    wanted = {
        f"nvidia-cudnn-cu{major}": f"=={build.cudnn}",
        f"nvidia-nccl-cu{major}": f"=={build.nccl}",
    }
    for pin in map(Requirement, build.pins):
        wanted[canonicalize_name(pin.name)] = str(pin.specifier)
    found = [
        f"the row pins {one}, the wheel does not ask for it" for one in wanted if one not in asked
    ]
    found += [
        f"the wheel asks for {one}, the row does not say so" for one in asked if one not in wanted
    ]
    for name in asked:
        versions = locked.get(name, set())
        specifier = Requirement(f"x{wanted.get(name, '')}").specifier
        if not any(specifier.contains(one, prereleases=True) for one in versions):
            found.append(
                f"the row says {name}{specifier}, the index gives {', '.join(sorted(versions))}"
            )
    return found
