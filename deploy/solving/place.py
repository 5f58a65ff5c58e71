"""Which package repository a host's answer needs, as a host must be told of it."""

from dataclasses import dataclass

from deploy.catalog.models import Catalogue
from deploy.facts import NodeFacts
from deploy.fleet.spec import NONE, NodeSpec
from deploy.solving.refusal import Refused
from deploy.solving.situation import situation


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


def place(spec: NodeSpec, facts: NodeFacts, catalogue: Catalogue) -> Place | None:
    """The repository that this host's answer needs; None when it needs none or is blocked."""
    try:
        seen = situation(spec, facts, catalogue)
    except Refused:
        return None
    parts = (spec.cuda, spec.cudnn, spec.nccl)
    if seen.gpus:
        needed = spec.driver != NONE or any(part != NONE for part in parts)
    else:
        needed = any(part not in (None, NONE) for part in parts)
    if not needed:
        return None
    vendor = catalogue.vendor(seen.row(catalogue).kind)
    url = spec.vendor_repository or vendor.url.format(
        distribution=seen.distribution, arch=seen.arch(catalogue).repository
    )
    return Place(
        distribution=seen.distribution,
        machine=seen.machine,
        url=url,
        key_url=f"{url}/{vendor.key_file}",
        key_fingerprint=spec.vendor_key_fingerprint or vendor.key_fingerprint,
        proxy=spec.proxy or "",
        ca_bundle=spec.ca_bundle or "",
    )
