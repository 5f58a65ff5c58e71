"""Checks that the controller judges, over all hosts and their past: their claims. Data."""

from verify.checks import Check
from verify.judging.figure import COLLECTIVES, COMPUTE, LINK, MEMORY, PEER, TRAINING

FINGERPRINT, VERSIONS = "perf.fingerprint", "fleet.versions"
BASELINES = "research: verification 3.3 and 5 #5 (physics, neighbours, history); figures.toml"


OFFLINE = "offline: "
"""Of a fault that tests bring upon figures: nothing on a CPU is as fast as it always is."""


def _perf(id: str, claim: str, component: str, fault: str, action: str = "drain") -> Check:
    return Check(
        id=id,
        claim=claim,
        level="standard",
        action=action,
        needs=(),
        source=BASELINES,
        fault=fault,
        component=component,
        where="fleet",
    )


CLAIMS: tuple[Check, ...] = (
    _perf(
        COMPUTE,
        "Every GPU multiplies matrices as fast as its model, its equals and its own past.",
        "gpu",
        "offline: one GPU multiplies at two thirds of its equals' speed",
    ),
    _perf(
        MEMORY,
        "Every GPU's memory is as fast as its clock and bus, its equals and its own past.",
        "gpu",
        "offline: one GPU's memory at two thirds",
    ),
    _perf(
        LINK,
        "Every GPU's copies from and to the host are as fast as its link, in both directions.",
        "gpu",
        "offline: one direction of one GPU's link at half",
    ),
    _perf(
        PEER,
        "Copies between GPUs are as fast as the links between them, in every direction.",
        "gpu",
        "offline: all copies of one GPU at half",
    ),
    _perf(
        COLLECTIVES,
        "Collectives are as fast as on equal hosts by the same transport and algorithm.",
        "host",
        "offline: one host's all-reduce at two thirds",
    ),
    _perf(
        TRAINING,
        "Every GPU trains as fast as its equals and its own past.",
        "training",
        "offline: one GPU trains at two thirds",
    ),
    Check(
        id=FINGERPRINT,
        claim="Equal GPUs with equal software compute the same, bit by bit.",
        level="standard",
        action="service",
        needs=(),
        source="fleet vote against silent corruption: research: verification 1.13, 5 #2",
        fault="bench:print:1",
        component="gpu",
        where="fleet",
    ),
    Check(
        id=VERSIONS,
        claim="Equal hosts run one driver, VBIOS, GSP, infoROM and torch.",
        level="quick",
        action="keep",
        needs=(),
        source="mixed firmware: research: verification 1.2 (VBIOS, GSP firmware, infoROM versions)",
        fault="nvml:2:vbios=96.00.74.00.99",
        component="gpu",
        verdict="degraded",
        where="fleet",
    ),
)
"""Their findings are made in this folder and added to hosts' results."""
