"""Checks that the controller judges, over all hosts and their past: their claims. Data."""

from verify.checks import Check
from verify.judging.figure import COLLECTIVES, COMPUTE, LINK, MEMORY, PEER, TRAINING

FINGERPRINT, VERSIONS = "perf.fingerprint", "fleet.versions"
REACHABLE = "host.reachable"
BASELINES = (
    "ours: physics (verify/judging/figures.toml names every figure's source), neighbours by median "
    "and MAD as in NVIDIA/Megatron-LM gpu_sniff_test.py, and the host's own history"
)
OFFLINE = "offline: "
"""Of a fault that tests bring upon figures: nothing on a CPU is as fast as it always is."""


def _claim(
    id: str,
    claim: str,
    component: str,
    fault: str,
    *,
    source: str = BASELINES,
    level: str = "standard",
    action: str = "drain",
    verdict: str = "fail",
) -> Check:
    return Check(id, claim, level, action, (), source, fault, component, verdict, where="fleet")


CLAIMS: tuple[Check, ...] = (
    _claim(
        COMPUTE,
        "Every GPU multiplies matrices as fast as its model, its equals and its own past.",
        "gpu",
        "offline: one GPU multiplies at two thirds of its equals' speed",
    ),
    _claim(
        MEMORY,
        "Every GPU's memory is as fast as its clock and bus, its equals and its own past.",
        "gpu",
        "offline: one GPU's memory at two thirds",
    ),
    _claim(
        LINK,
        "Every GPU's copies from and to the host are as fast as its link, in both directions.",
        "gpu",
        "offline: one direction of one GPU's link at half",
    ),
    _claim(
        PEER,
        "Copies between GPUs are as fast as the links between them, in every direction.",
        "gpu",
        "offline: all copies of one GPU at half",
    ),
    _claim(
        COLLECTIVES,
        "Collectives are as fast as on equal hosts by the same transport and algorithm.",
        "host",
        "offline: one host's all-reduce at two thirds",
    ),
    _claim(
        TRAINING,
        "Every GPU trains as fast as its equals and its own past.",
        "training",
        "offline: one GPU trains at two thirds",
    ),
    _claim(
        FINGERPRINT,
        "Equal GPUs with equal software compute the same, bit by bit.",
        "gpu",
        "bench:print:1",
        source="ours: a vote of equal GPUs against silent corruption; microsoft/superbenchmark "
        "model_log_utils.py compares fingerprints of runs",
        action="service",
    ),
    _claim(
        VERSIONS,
        "Equal hosts run one driver, VBIOS, GSP, infoROM and torch.",
        "gpu",
        "nvml:2:vbios=96.00.74.00.99",
        source="mixed firmware: Azure/azurehpc-health-checks, Imbue's cluster-health and "
        "facebookresearch/gcm compare versions",
        level="quick",
        action="keep",
        verdict="degraded",
    ),
)
"""Their findings are made in this folder and added to hosts' results."""
LOGIN = _claim(
    REACHABLE,
    "The host can be logged in to.",
    "host",
    "unreachable",
    source="the controller's own login, within its deadline",
    level="quick",
    action="keep",
    verdict="unreachable",
)
"""What verify says of a host that it could not log in to; no finding is made here."""
