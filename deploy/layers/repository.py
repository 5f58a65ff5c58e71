"""The vendor's package repository, trusted by exactly one key.

The key was checked against its fingerprint when the lock was read; here it becomes a keyring that
signs this one source and no other. A source that somebody else configured for the same address
(the vendor's cuda-keyring package) stays and ours is left out: apt refuses to work at all when two
sources of one repository name different keys, and dnf would read the same repository twice.
"""

import re
from urllib.parse import urlsplit

from deploy import apt, dnf
from deploy.facts import NodeFacts, Source
from deploy.known import known
from deploy.layers.files import file_step, in_place, remove_file
from deploy.shell import assign, script
from deploy.stack import Repository
from deploy.steps import Command, Step, Wanted

NAME = "repository"
KEYRING = "/usr/share/keyrings/gpufleet-vendor.asc"
RPM_KEY = "/etc/pki/rpm-gpg/RPM-GPG-KEY-gpufleet-vendor"
RPM_ID = "gpufleet-vendor"
"""The repository's id for dnf: no id that the vendor's own file uses."""
NETWORK = "/etc/apt/apt.conf.d/95gpufleet-network"


def source_text(url: str) -> str:
    """Our source in deb822 form; the vendor's repository is a flat one (research:
    provisioning 2.5)."""
    return (
        "# The GPU vendor's packages. Written by gpufleet, which keeps this file as it is.\n"
        f"Types: deb\nURIs: {url}/\nSuites: /\nSigned-By: {KEYRING}\n"
    )


def repo_text(wanted: Wanted, url: str) -> str:
    """Our repository for dnf. Packages must be signed by the key; the vendor's own file asks for
    no more (cuda-rhel9.repo). That the index is signed too is checked when a lock is made.
    module_hotfixes stays off, or packages of every stream would be offered at once."""
    lines = [
        "# The GPU vendor's packages. Written by gpufleet, which keeps this file as it is.",
        f"[{RPM_ID}]",
        "name=GPU vendor's packages (gpufleet)",
        f"baseurl={url}/",
        "enabled=1",
        "gpgcheck=1",
        f"gpgkey=file://{RPM_KEY}",
    ]
    lines += [f"proxy={wanted.spec.proxy}"] if wanted.spec.proxy else []
    lines += [f"sslcacert={wanted.spec.ca_bundle}"] if wanted.spec.ca_bundle else []
    return "".join(f"{line}\n" for line in lines)


def network_text(wanted: Wanted) -> str:
    """How apt reaches the vendor's repository; the host's own sources keep their own way."""
    repository = wanted.stack.repository
    host = urlsplit(repository.url).hostname if repository is not None else None
    lines = []
    if host and wanted.spec.proxy:
        lines += [f'Acquire::{way}::Proxy::{host} "{wanted.spec.proxy}";' for way in _WAYS]
    if host and wanted.spec.ca_bundle:
        lines.append(f'Acquire::https::{host}::CAInfo "{wanted.spec.ca_bundle}";')
    return "".join(f"{line}\n" for line in lines)


_WAYS = ("http", "https")


def same_repository(facts: NodeFacts, url: str) -> list[Source]:
    """Sources of this very repository that somebody else configured."""
    address = re.compile(re.escape(url.rstrip("/")) + r"/?(\s|$)")
    return [
        source
        for source in known(facts, "sources", facts.sources)
        if source.path not in {apt.SOURCE, dnf.SOURCE} and address.search(source.line)
    ]


def steps(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    """Source, keyring and the way there; nothing when the stack needs no vendor package."""
    repository = wanted.stack.repository
    if repository is None:
        return []
    files = known(facts, "files", facts.files)
    ours = apt.SOURCE if repository.kind == "apt" else dnf.SOURCE
    theirs = same_repository(facts, repository.url)
    if theirs:
        return [_once(theirs[0], repository)] if ours in files else []
    if repository.kind == "apt":
        return _for_apt(wanted, facts, repository)
    return _for_dnf(wanted, facts, repository)


def _once(theirs: Source, repository: Repository) -> Step:
    commands: tuple[Command, ...]
    if repository.kind == "apt":
        reading = Command(shell=script(apt.update()), timeout_s=_UPDATE_S)
        commands = (remove_file(apt.SOURCE), reading)
        trouble = "apt refuses two keys for one repository"
    else:
        commands, trouble = (remove_file(dnf.SOURCE),), "dnf would read it twice"
    return Step(
        layer=NAME,
        title="vendor repository is configured once",
        why=f"{theirs.path} configures {repository.url} as well; {trouble}",
        commands=commands,
    )


def _for_dnf(wanted: Wanted, facts: NodeFacts, repository: Repository) -> list[Step]:
    """The key is imported as well: nobody who calls dnf later is asked about it."""
    key, text = _ends_with_newline(repository.key), repo_text(wanted, repository.url)
    found = file_step(
        NAME,
        "vendor's key is installed",
        facts,
        RPM_KEY,
        key,
        then=assign(key=RPM_KEY) + 'rpm --import "$key"\n',
    )
    found += file_step(NAME, f"packages come from {repository.url}", facts, dnf.SOURCE, text)
    if not in_place(facts, dnf.SOURCE, text):
        reading = Command(shell=script(dnf.update(RPM_ID)), timeout_s=_UPDATE_S)
        found[-1] = found[-1].model_copy(update={"commands": (*found[-1].commands, reading)})
    return found


def _for_apt(wanted: Wanted, facts: NodeFacts, repository: Repository) -> list[Step]:
    found = _way(wanted, facts)
    found += file_step(
        NAME, "vendor's key is installed", facts, KEYRING, _ends_with_newline(repository.key)
    )
    text = source_text(repository.url)
    if not in_place(facts, apt.SOURCE, text):
        found += file_step(NAME, f"packages come from {repository.url}", facts, apt.SOURCE, text)
    if found:
        reading = Command(shell=script(apt.update(apt.SOURCE)), timeout_s=_UPDATE_S)
        found[-1] = found[-1].model_copy(update={"commands": (*found[-1].commands, reading)})
    return found


_UPDATE_S = 600


def _way(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    text = network_text(wanted)
    if text:
        return file_step(NAME, "apt knows the way to the vendor repository", facts, NETWORK, text)
    if NETWORK not in known(facts, "files", facts.files):
        return []
    return [
        Step(
            layer=NAME,
            title="apt reaches the vendor repository directly",
            why=f"{NETWORK} exists, but neither proxy nor CA bundle is wanted",
            commands=(remove_file(NETWORK),),
        )
    ]


def _ends_with_newline(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"
