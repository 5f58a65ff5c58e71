"""The installed stack: every package at its locked version, and all of them from one origin."""

from __future__ import annotations

import re
from typing import Any

from verify.applies import Scene
from verify.checks import HOST, Component, Look, check

GPU_PACKAGES = ("nvidia-*", "libnvidia-*", "cuda-*", "libcuda*", "cudnn*", "libcudnn*", "libnccl*")
"""Names of the vendor's packages in its own and Ubuntu's archives, as patterns of dpkg and rpm."""
TOOLKIT = ("nvidia-container-", "libnvidia-container")
"""The vendor has these in a repository of their own as well (nvidia.github.io/libnvidia-container):
theirs says nothing of the driver's origin."""
LEFTOVERS = (
    "/usr/bin/nvidia-uninstall",
    "/usr/bin/nvidia-installer",
    "/usr/local/cuda/bin/cuda-uninstaller",
)
"""What the vendor's .run files leave, each with the way to undo them."""
_INSTALLED = "dpkg-query -W -f '${db:Status-Abbrev}\\t${Package}\\t${Version}\\n'"
_RPMS = "rpm -qa --qf 'ii \\t%{NAME}\\t%{EVR}\\n'"
_ORIGINS = "dnf -q --disablerepo='*' repoquery --installed --qf '%{name}\\t%{from_repo}'"
NO_COMMAND = 127


def installed(host: Any, *patterns: str) -> dict[str, str] | None:
    """Packages that dpkg has configured, or rpm installed, -> version; None where neither says."""
    words = " ".join(["%s"] * len(patterns))
    asked = host.run(f"{_INSTALLED.replace('%', '%%')} -- {words}", *patterns)
    if asked.rc == NO_COMMAND:
        asked = host.run(f"{_RPMS.replace('%', '%%')} {words}", *patterns)
    if asked.rc not in (0, 1):  # 1: one of the names is not known
        return None
    found = {}
    for line in asked.stdout.splitlines():
        state, _, rest = line.partition("\t")
        name, _, version = rest.partition("\t")
        if state[1:2] == "i" and version:
            found[name] = version
    return found


@check(
    "stack.packages",
    component="package",
    needs=("locked-packages",),
    source="lock: exact versions; pins of metapackages do not hold (dstackai/dstack PR 2355)",
    fault="package-version",
)
def test_packages(scene: Scene, host: Any, look: Look) -> None:
    """CUDA, cuDNN, NCCL and the driver's packages are installed at their locked versions."""
    expected = scene.expected
    assert expected is not None
    found = installed(host, *expected["packages"])
    if found is None:
        look.unknown(HOST, "installed packages", why="neither dpkg-query nor rpm answers")
        return
    for name, version in expected["packages"].items():
        look.at(
            Component(kind="package", name=name),
            "installed version",
            found=found.get(name, "not installed"),
            expected=version,
            baseline=scene.expected_from,
            evidence=("gpufleet plan shows the way back",),
        )


@check(
    "stack.origin",
    component="package",
    verdict="degraded",
    source="one origin per host; Azure/azhpc-images PR 86: driver by .run, Fabric "
    "Manager by deb, and an upgrade moved one of them",
    fault="second-origin",
)
def test_origin(host: Any, look: Look) -> None:
    """GPU packages come from one repository, and nothing came from a .run file."""
    for path in LEFTOVERS:
        owner = "dpkg-query -S %s 2>/dev/null || rpm -qf %s"
        there = host.run(f"if [ -e %s ]; then {owner}; else exit 44; fi", path, path, path)
        look.at(
            Component(kind="file", name=path),
            "what the vendor's .run file installs",
            found="there, of no package" if there.rc not in (0, 44) else "none",
            expected="none",
            evidence=("its own uninstaller takes it away",),
        )
    packages = installed(host, *GPU_PACKAGES)
    if packages is None:
        look.unknown(HOST, "origin of GPU packages", why="neither dpkg-query nor rpm answers")
        return
    packages = {name: full for name, full in packages.items() if not name.startswith(TOOLKIT)}
    if not packages:
        return
    words = " ".join(["%s"] * len(packages))
    asked = host.run(f"LC_ALL=C apt-cache policy {words}", *packages)
    if asked.rc == NO_COMMAND:
        _origin_of_rpms(packages, host, look)
        return
    tables = policies(asked.stdout)
    lacking = packages.keys() - tables.keys()
    if asked.rc != 0 or lacking:
        why = f"apt-cache policy says nothing of {', '.join(sorted(lacking)) or 'them'}"
        look.unknown(HOST, "origin of GPU packages", why=why)
        return
    home = main_repository(tables)
    if not home:
        why = "no repository offers any of them: apt's lists are missing (apt-get update)"
        look.unknown(HOST, "origin of GPU packages", why=why)
        return
    for name, table in sorted(tables.items()):
        mine = table.offers.get(table.installed, [])
        component = Component(kind="package", name=name)
        look.at(
            component,
            f"origin of {table.installed}",
            found=", ".join(mine) or "no repository offers it",
            expected=home,
            held=home in mine,
            verdict="fail" if mine else "degraded",
        )
        strangers = table.newer_than(home)
        look.at(
            component,
            "newer versions than the vendor's newest",
            found=[f"{version} of {', '.join(urls)}" for version, urls in strangers.items()],
            expected="none of another origin, which an upgrade without our pins would take",
            held=not strangers,
            verdict="degraded",
            evidence=("grep -r . /etc/apt/sources.list /etc/apt/sources.list.d names the source",),
        )
        if table.candidate not in (table.installed, *strangers):
            following = table.offers.get(table.candidate, [])
            look.at(
                component,
                f"origin of {table.candidate}, which the next upgrade takes",
                found=", ".join(following) or "nothing offers it",
                expected=home,
                held=home in following,
                verdict="degraded",
            )


def _origin_of_rpms(packages: dict[str, str], host: Any, look: Look) -> None:
    """dnf notes which repository each package came from; rpm itself does not."""
    words = " ".join(["%s"] * len(packages))
    asked = host.run(f"{_ORIGINS.replace('%', '%%')} {words}", *packages)
    lines = (line.partition("\t")[::2] for line in asked.stdout.splitlines())
    origin = {name: repository.strip() for name, repository in lines if name in packages}
    if asked.rc != 0 or not origin:
        why = "dnf repoquery --installed says nothing of them"
        look.unknown(HOST, "origin of GPU packages", why=why)
        return
    named = [one for one in origin.values() if one and not one.startswith(("@", "<"))]
    home = max(sorted(set(named)), key=named.count, default="")
    for name, version in sorted(packages.items()):
        mine = origin.get(name, "")
        look.at(
            Component(kind="package", name=name),
            f"origin of {version}",
            found=mine if mine in named else f"no repository ({mine or 'dnf knows of none'})",
            expected=home or "a repository",
            held=bool(mine) and mine == home,
            verdict="fail" if mine in named else "degraded",
        )


class Policy:
    """What apt knows of one package."""

    def __init__(self) -> None:
        self.installed = self.candidate = ""
        self.offers: dict[str, list[str]] = {}
        """Version -> the repositories that offer it; the newest version first, as apt prints."""

    def newer_than(self, home: str) -> dict[str, list[str]]:
        """Versions of others that are newer than all that `home` offers; none where it offers
        nothing, for then no version of it can be compared."""
        found: dict[str, list[str]] = {}
        for version, urls in self.offers.items():
            if home in urls:
                return found
            if urls:
                found[version] = urls
        return {}


def policies(text: str) -> dict[str, Policy]:
    """Tables of `apt-cache policy`, by package."""
    found: dict[str, Policy] = {}
    table, version = Policy(), ""
    for line in text.splitlines():
        if head := re.fullmatch(r"(\S+?)(?::\w+)?:", line):
            table = found[head[1]] = Policy()
        elif words := re.fullmatch(r"  (Installed|Candidate): (\S+)", line):
            setattr(table, words[1].lower(), "" if words[2] == "(none)" else words[2])
        elif words := re.fullmatch(r" (?:\*\*\*|   ) (\S+) -?\d+", line):
            version = words[1]
            table.offers[version] = []
        elif words := re.fullmatch(r" {8,}-?\d+ (?!/var/lib/dpkg/)(\S+)(?: .*)?", line):
            table.offers.setdefault(version, []).append(words[1].rstrip("/"))
    return found


def main_repository(tables: dict[str, Policy]) -> str:
    """The repository that offers most of the installed versions; "" when none offers any."""
    votes: dict[str, int] = {}
    for table in tables.values():
        for url in table.offers.get(table.installed, []):
            votes[url] = votes.get(url, 0) + 1
    return max(sorted(votes), key=lambda url: votes[url], default="")
