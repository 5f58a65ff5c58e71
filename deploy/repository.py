"""The vendor's package repository, trusted by exactly one key.

The key was checked against its fingerprint when the lock was read; here it becomes a keyring that
signs this one source and no other. A source that somebody else configured for the same address
(the vendor's cuda-keyring package) stays and ours is left out: apt refuses to work at all when two
sources of one repository name different keys.
"""

import re
from urllib.parse import urlsplit

from deploy import apt
from deploy.facts import NodeFacts, Source
from deploy.files import file_step, in_place, remove_file
from deploy.known import known
from deploy.shell import script
from deploy.steps import Command, Step, Wanted

NAME = "repository"
KEYRING = "/usr/share/keyrings/gpufleet-vendor.asc"
NETWORK = "/etc/apt/apt.conf.d/95gpufleet-network"


def source_text(url: str) -> str:
    """Our source in deb822 form; the vendor's repository is a flat one (research:
    provisioning 2.5)."""
    return (
        "# The GPU vendor's packages. Written by gpufleet, which keeps this file as it is.\n"
        f"Types: deb\nURIs: {url}/\nSuites: /\nSigned-By: {KEYRING}\n"
    )


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
        if source.path != apt.SOURCE and address.search(source.line)
    ]


def steps(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    """Source, keyring and the way there; nothing when the stack needs no vendor package."""
    repository = wanted.stack.repository
    if repository is None:
        return []
    files = known(facts, "files", facts.files)
    theirs = same_repository(facts, repository.url)
    if theirs:
        if apt.SOURCE not in files:
            return []
        return [
            Step(
                layer=NAME,
                title="vendor repository is configured once",
                why=f"{theirs[0].path} configures {repository.url} as well; apt refuses two keys "
                "for one repository",
                commands=(
                    remove_file(apt.SOURCE),
                    Command(shell=script(apt.update()), timeout_s=_UPDATE_S),
                ),
            )
        ]
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
