"""What a stack needs of the operating system, by presence: which packages are missing, and whether
the host's own sources can have them. Names are the distribution's, from the catalogue."""

import re

from deploy.catalog import load
from deploy.catalog.systems import BaseNames, ExtraRepository
from deploy.facts import NodeFacts
from deploy.known import known
from deploy.layers.kernels import header_packages, wanted_kernels
from deploy.packages import installed, locked
from deploy.stack import Blocked, Stack
from deploy.steps import Wanted

VERSIONLOCK = "python3-dnf-plugin-versionlock"
"""dnf 4's plugin that keeps packages at a version (dnf-plugins-core documentation)."""


def prerequisites(wanted: Wanted, facts: NodeFacts) -> dict[str, str]:
    """Packages of the distribution that are missing, each with what was looked for in vain."""
    stack, lacking = wanted.stack, dict[str, str]()
    base = _base(stack)
    tools = known(facts, "tools", facts.tools)
    if stack.driver is not None and not stack.driver.prebuilt:
        kernel = known(facts, "kernel", facts.kernel)
        for release in wanted_kernels(facts):
            if release not in kernel.headers:
                names = header_packages(stack.distribution, release)
                lacking |= dict.fromkeys(names, f"no headers for kernel {release}")
        if any("-dkms" in name for name in stack.driver.packages) and "dkms" not in tools:
            lacking |= dict.fromkeys(base.dkms, "no dkms")
    if stack.repository is not None and stack.repository.url.startswith("https:"):
        packages = known(facts, "packages", facts.packages)
        if not all(installed(packages.get(name)) for name in base.certificates):
            lacking |= dict.fromkeys(base.certificates, "no CA certificates")
    if stack.packaging == "dnf" and locked(stack) and "versionlock" not in tools:
        lacking[VERSIONLOCK] = "dnf cannot keep packages at a version"
    return lacking | _of_fabric(stack, base, facts) | _of_environment(stack, base, facts)


def _of_fabric(stack: Stack, base: BaseNames, facts: NodeFacts) -> dict[str, str]:
    """NVLink 5 switches are managed through InfiniBand's libraries and modules."""
    if stack.fabric is None or "nvlsm" not in stack.fabric.packages:
        return {}
    packages = known(facts, "packages", facts.packages)
    kernels = wanted_kernels(facts)
    names = [
        template.replace("{kernel}", kernel)
        for template in base.fabric_nvlink5
        for kernel in (kernels if "{kernel}" in template else kernels[:1])
    ]
    why = "nvlsm manages NVLink 5 switches through it"
    return {name: why for name in names if not installed(packages.get(name))}


def _of_environment(stack: Stack, base: BaseNames, facts: NodeFacts) -> dict[str, str]:
    lacking = dict[str, str]()
    if stack.environment is None:
        return lacking
    python = known(facts, "python", facts.python)
    # uv itself comes by the host's own python3, also where it is to bring another one.
    if not python.version:
        lacking |= dict.fromkeys(base.python, "no python3")
    if not python.venv:
        lacking |= dict.fromkeys(base.venv, "python3 cannot make virtual environments")
    if stack.environment.managed_python is None and not python.headers:
        names = [_of_python(name, python.version, stack) for name in base.python_headers]
        lacking |= dict.fromkeys(names, "no Python.h, which torch.compile needs")
    if not known(facts, "compiler", facts.compiler):
        lacking |= dict.fromkeys(base.compiler, "no C++ compiler for torch.compile")
    return lacking


def _of_python(name: str, version: str, stack: Stack) -> str:
    """A package of the distribution's python3, as it is called for the Python that python3 is on
    this host: EL has several side by side, and alternatives may point to another one."""
    minor, row = ".".join(version.split(".")[:2]), load().named(stack.distribution)
    if row.kind != "dnf" or minor in {"", row.python}:
        return name
    return name.replace("python3", f"python{minor}", 1)


def _base(stack: Stack) -> BaseNames:
    return load().named(stack.distribution).base


def sources_first(wanted: Wanted, facts: NodeFacts) -> dict[str, str]:
    """Packages that bring a repository which missing prerequisites come from, with why."""
    first = {}
    for extra, names in _extras(wanted, facts):
        if package := _release_package(_how(extra, facts)):
            first[package] = f"{', '.join(names)} is in {extra.name}, which is not configured"
    return first


def lacks_source(wanted: Wanted, facts: NodeFacts) -> Blocked | None:
    """Blocked when a prerequisite is in a repository that only an operator can set up."""
    if not wanted.spec.privileged:
        return None
    for extra, names in _extras(wanted, facts):
        how = _how(extra, facts)
        if not _release_package(how):
            return Blocked(
                host=wanted.host,
                reason=f"{', '.join(names)} is missing, and {extra.name}, which has it, is not "
                "configured",
                rule=f"{', '.join(extra.holds)} comes from {extra.name} only",
                source=f"catalogue: packages, {_base(wanted.stack).source}",
                unblock=(how or f"configure a repository that has {', '.join(names)}",),
            )
    return None


def _extras(wanted: Wanted, facts: NodeFacts) -> list[tuple[ExtraRepository, list[str]]]:
    """Repositories that hold a missing prerequisite and that the host seems not to have."""
    missing, found = prerequisites(wanted, facts), []
    offered = facts.candidates or {}
    for extra in _base(wanted.stack).extra_repositories:
        names = [
            name
            for name in extra.holds
            if name in missing and not (name in offered and offered[name].candidate)
        ]
        if names and not _configured(extra, facts):
            found.append((extra, names))
    return found


def _configured(extra: ExtraRepository, facts: NodeFacts) -> bool:
    sources = known(facts, "sources", facts.sources)
    return any(extra.name.lower() in source.line.lower() for source in sources)


def _how(extra: ExtraRepository, facts: NodeFacts) -> str:
    """The command that configures it on this distribution, "" when none is known."""
    if facts.os is None:
        return ""
    major = facts.os.version_id.partition(".")[0]
    return extra.enable.get(facts.os.id, "").replace("$(rpm -E %rhel)", major)


def _release_package(command: str) -> str:
    """The package that such a command installs from the distribution's own repositories; ""
    where it takes more than that."""
    found = re.fullmatch(r"dnf install ([a-z0-9][a-z0-9.+-]*)", command)
    return found[1] if found else ""
