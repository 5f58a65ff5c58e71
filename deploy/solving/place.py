"""Which package repository a host's answer needs, as a host must be told of it."""

from dataclasses import dataclass

from deploy.catalog.models import Catalogue
from deploy.facts import NodeFacts
from deploy.fleet.spec import NONE, NodeSpec
from deploy.solving.origins import asks_own_sources
from deploy.solving.refusal import Refused
from deploy.solving.situation import asks_vendor, situation
from deploy.stack import Packaging


@dataclass(frozen=True)
class Place:
    """A package repository as a host must be told of it; one answer serves equal places."""

    distribution: str
    machine: str
    url: str
    key_url: str
    key_fingerprint: str
    proxy: str = ""
    ca_bundle: str = ""
    packaging: Packaging = "apt"
    own: bool = False
    """Ask also what the host's own configured sources offer of a driver."""


def place(spec: NodeSpec, facts: NodeFacts, catalogue: Catalogue) -> Place | None:
    """The repository that this host's answer needs; None when it needs none or is blocked."""
    try:
        seen = situation(spec, facts, catalogue)
    except Refused:
        return None
    if not asks_vendor(spec, seen.gpus):
        return None
    row, key = seen.row(catalogue), catalogue.key_of(seen.distribution)
    url = spec.vendor_repository or catalogue.vendor.url.format(
        distribution=row.name, arch=seen.arch(catalogue).repository
    )
    return Place(
        distribution=row.name,
        machine=seen.machine,
        url=url,
        key_url=f"{url}/{key.file}",
        key_fingerprint=spec.vendor_key_fingerprint or key.fingerprint,
        proxy=spec.proxy or "",
        ca_bundle=spec.ca_bundle or "",
        packaging=row.kind,
        own=spec.driver != NONE and asks_own_sources(spec, seen, catalogue),
    )
