"""NCCL for programs other than torch; the torch wheel brings its own."""

from deploy.facts import NodeFacts
from deploy.layers.library import packages_step
from deploy.steps import Step, Wanted

NAME = "nccl"
FAMILY = r"libnccl(2|-dev|-devel|-static)?"


def steps(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    """Library and development files at the locked version, built for the toolkit's CUDA."""
    nccl = wanted.stack.nccl
    return packages_step(NAME, "NCCL", wanted, nccl, facts, FAMILY) if nccl else []
