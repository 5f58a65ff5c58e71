"""cuDNN for programs other than torch; the torch wheel brings its own."""

from deploy.facts import NodeFacts
from deploy.layers.library import packages_step
from deploy.steps import Step, Wanted

NAME = "cudnn"
FAMILY = r"(lib)?cudnn9?(-.+)?"
"""Source: the vendor's package names (research: provisioning 2.9)."""


def steps(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    """Library, headers and development files at the locked version."""
    cudnn = wanted.stack.cudnn
    return packages_step(NAME, "cuDNN", wanted, cudnn, facts, FAMILY) if cudnn else []
