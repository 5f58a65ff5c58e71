"""What package transactions do to a model of a host."""

from __future__ import annotations

import re
import shlex
from typing import Any

from deploy.catalog import load
from deploy.facts import Dpkg, InstalledModule, Package, Source
from deploy.layers.prerequisites import VERSIONLOCK
from deploy.packages import installed, upstream
from tests.golden.host import Machine, Refused
from tests.golden.scripts import Parts


def apt_transaction(host: Machine, found: Parts, stdin: str) -> None:
    (line,) = re.findall(r"^set -- (.*)$", found.text, re.M)
    words = shlex.split(line)
    packages = dict(host.facts.packages or {})
    wished = dict(word.split("=", 1) for word in words if "=" in word and word[0] != "-")
    locked = dict(word.split("=", 1) for word in found.values["wanted"].split())
    for name, version in wished.items():
        assert locked[name] == version, f"{name} {version} is not the locked version"
    leaving = [word[:-1] for word in words if word.endswith("-") and word[0] != "-"]
    may_go = {*found.values["may_go"].split(), *leaving}
    leaving += rivals(wished, packages)
    if more := sorted(set(leaving) - may_go):
        raise Refused(f"it would remove {', '.join(more)}")
    touched = {n for n, v in wished.items() if n in packages and packages[n].version != v}
    held = sorted(n for n in {*touched, *leaving} if n in packages and packages[n].held)
    if held and "--allow-change-held-packages" not in words:
        raise Refused(f"held packages would change: {', '.join(held)}")
    for name in leaving:
        packages.pop(name, None)
    for name, version in wished.items():
        packages[name] = Package(version=version, state="ii", held=False)
    for name in re.findall(r"^apt-mark hold -- (.*)$", found.text, re.M):
        for one in shlex.split(name):
            packages[one] = packages[one].model_copy(update={"state": "hi", "held": True})
    host.change(packages=packages, dpkg=Dpkg(broken=(), interrupted=False, lock_holder=""))
    _installed(host, wished)
    for name in words[1:]:
        if not name.startswith("-") and "=" not in name and not name.endswith("-"):
            _present(host, name, locked)


def dnf_transaction(host: Machine, found: Parts, stdin: str) -> None:
    (line,) = re.findall(r"^set -- (.*)$", found.text, re.M)
    words = shlex.split(line)
    packages = dict(host.facts.packages or {})
    wished = _entries(found.values["EXACTLY"])
    locked = _entries(found.values["WANTED"])
    also = found.values["ALSO"].split()
    named = [word for word in words[1:] if not word.startswith("-") and word not in also]
    assert named == [f"{name}-{version}" for name, version in wished.items()], named
    for name, version in wished.items():
        assert locked[name] == version, f"{name} {version} is not the locked version"
        _offered(host, name, version)
    leaving = [name for name in found.values["LEAVE"].split() if name in packages]
    going = sorted({*leaving, *rivals(wished, packages)})
    if more := sorted(set(going) - set(found.values["MAY_GO"].split())):
        raise Refused(f"it would remove {', '.join(more)}")
    if going and "--allowerasing" not in words:
        raise Refused(f"conflicts with {', '.join(going)}")
    for name in going:
        packages.pop(name)
    for name, version in wished.items():
        was = packages.get(name)
        held = was is not None and was.held
        packages[name] = Package(version=version, state="ii", held=held)
    host.change(packages=packages, dpkg=Dpkg(broken=(), interrupted=False, lock_holder=""))
    _installed(host, wished)
    for name in also:
        _present(host, name, locked)


def _offered(host: Machine, name: str, version: str) -> None:
    """Where drivers come in module streams, dnf sees those of the enabled one only."""
    assert host.facts.os is not None
    if kind(name) not in {"driver", "modules"} and not name.startswith("nvidia-driver"):
        return
    branch = upstream(version).partition(".")[0]
    row = load().distribution(host.facts.os.id, host.facts.os.version_id)
    assert row is not None
    names = load().driver_names(row.name, "vendor", int(branch))
    enabled = (host.facts.streams or {}).get("nvidia-driver", "")
    if names and names.stream("open") and enabled.partition("-")[0] != branch:
        raise Refused(f"No match for argument: {name}-{version} (stream {enabled!r})")


def _entries(text: str) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in text.split())


def stream_enabled(host: Machine, found: Parts, stdin: str) -> None:
    module, _, stream = found.values["stream"].partition(":")
    host.change(streams={**(host.facts.streams or {}), module: stream})


def versions_locked(host: Machine, found: Parts, stdin: str) -> None:
    lines = tuple(line for line in stdin.splitlines() if not line.startswith("#"))
    host.change(own_versionlocks=lines)


def rivals(wished: dict[str, str], packages: dict[str, Package]) -> list[str]:
    """Installed packages that cannot stay beside the wished ones: another pin, another flavour's
    modules, and all of a driver whose packages are replaced by those of another name (Ubuntu's
    packages of two branches conflict, as do the archive's and the vendor's, by what they provide;
    Debian's and EL's two flavours conflict)."""
    kinds = {kind(name) for name in wished} - {""}
    going = {name for name in packages if kind(name) in kinds and name not in wished}
    gone = {packages[name].version for name in going if kind(name) == "driver"}
    return sorted(
        name
        for name, one in packages.items()
        if name in going
        or (name not in wished and kind(name) in {"driver", "modules"} and one.version in gone)
    )


def kind(name: str) -> str:
    """What a host can have one of."""
    if name.startswith("nvidia-driver-pinning-"):
        return "pin"
    if re.fullmatch(r"(nvidia|cuda-drivers)-(fabric-?manager|imex)(-\d{3})?", name):
        return "imex" if "imex" in name else "fabric manager"
    bare = re.sub(r"-\d{3}(-server)?(-open)?$|-server$", "", name)
    if bare in DRIVER or re.fullmatch(
        r"(nvidia-(kernel-)?(open-)?dkms|akmod-nvidia)(-open)?", bare
    ):
        return "driver"
    return "modules" if re.match(r"kmod-nvidia|nvidia-.*dkms", name) else ""


DRIVER = {
    *("libnvidia-compute", "nvidia-utils", "nvidia-compute-utils", "nvidia-headless-no-dkms"),
    *("xorg-x11-drv-nvidia", "xorg-x11-drv-nvidia-cuda"),
}
"""Names of a driver's packages less branch and flavour, where these are part of the name."""


def _installed(host: Machine, fresh: dict[str, str]) -> None:
    """What packages' own scripts do: modules built, toolkits unpacked."""
    kernel, modules, cuda = host.facts.kernel, host.facts.modules, host.facts.cuda
    assert kernel is not None
    assert modules is not None
    assert cuda is not None
    for name, version in fresh.items():
        if re.fullmatch(r"nvidia-(kernel-)?(open-)?dkms(-\d+(-server)?(-open)?)?", name) or (
            name.startswith("kmod-nvidia") and "dkms" in name
        ):
            flavour: Any = "open" if "open" in name else "closed"
            number = upstream(version)
            built = {one.kernel: one for one in modules.installed}
            for release in kernel.headers:
                built[release] = InstalledModule(kernel=release, version=number, flavour=flavour)
            modules = modules.model_copy(update={"installed": tuple(built.values())})
        if release_found := re.fullmatch(r"cuda-toolkit-(\d+)-(\d+)", name):
            release = f"{release_found[1]}.{release_found[2]}"
            toolkits = tuple(sorted({*cuda.toolkits, release}))
            cuda = cuda.model_copy(update={"toolkits": toolkits})
    host.change(modules=modules, cuda=cuda)


def prerequisites(host: Machine, found: Parts, stdin: str) -> None:
    for name in found.values["names"].split():
        _present(host, name, {})


def _present(host: Machine, name: str, locked: dict[str, str]) -> None:
    """What one package of the distribution brings."""
    kernel, python, modules = host.facts.kernel, host.facts.python, host.facts.modules
    assert kernel is not None
    assert python is not None
    assert modules is not None
    if signed := re.fullmatch(r"linux-modules-nvidia-(\d+)-server(-open)?-(\d.*)", name):
        flavour: Any = "open" if signed[2] else "closed"
        version = upstream(locked[f"nvidia-utils-{signed[1]}-server"])
        there = {one.kernel: one for one in modules.installed}
        there[signed[3]] = InstalledModule(kernel=signed[3], version=version, flavour=flavour)
        host.change(modules=modules.model_copy(update={"installed": tuple(there.values())}))
    packages = {**(host.facts.packages or {})}
    packages.setdefault(name, Package(version="1-1", state="ii", held=False))
    host.change(packages=packages)
    for release in kernel.installed:
        theirs = release.lower().replace("_", "-") in name.replace("_", "-")
        if theirs and name.startswith(("linux-headers-", "kernel-devel", "kernel-uek-devel")):
            headers = tuple(sorted({*kernel.headers, release}))
            host.change(kernel=kernel.model_copy(update={"headers": headers}))
    tool = {"dkms": "dkms", VERSIONLOCK: "versionlock"}.get(name)
    if tool:
        host.change(tools=tuple(sorted({*(host.facts.tools or ()), tool})))
    elif name.startswith(("epel-release", "oracle-epel-release")):
        epel = Source(path="/etc/yum.repos.d/epel.repo", line="[epel] https://epel.example/")
        host.change(sources=(*(host.facts.sources or ()), epel))
    elif re.fullmatch(r"python3(\.\d+)?-venv", name):
        host.change(python=python.model_copy(update={"venv": True}))
    elif re.fullmatch(r"python3(\.?\d+)?-(dev|devel)", name):
        host.change(python=python.model_copy(update={"headers": True}))
    elif name in {"g++", "gcc-c++"}:
        host.change(compiler="12.2.0")


def repaired(host: Machine, found: Parts, stdin: str) -> None:
    whole = {
        name: one if installed(one) else one.model_copy(update={"state": "ii"})
        for name, one in (host.facts.packages or {}).items()
    }
    host.change(packages=whole, dpkg=Dpkg(broken=(), interrupted=False, lock_holder=""))
