"""What training across hosts must hold: checks that the controller judges over all documents."""

from verify.checks import Check

MEASURED = "ours: closed forms, a single process's results (verify/payload/train_nodes.py)"
SPLIT = (
    "second pass with known-good partners: GoogleCloudPlatform/cluster-health-scanner (2025-10); "
    "group testing: NVIDIA/cluster-readiness-engine ADR-055"
)


def _claim(
    id: str, claim: str, fault: str, *, source: str = MEASURED, component: str = "training"
) -> Check:
    return Check(
        id=id,
        claim=claim,
        level="multi-node",
        action="drain",
        needs=(),
        source=source,
        fault=fault,
        component=component,
        where="fleet",
    )


HOST = _claim(
    "nodes.host",
    "The host trains with every known-good partner that it is given.",
    "train:die:0",
    source=SPLIT,
    component="host",
)
LINK = _claim(
    "nodes.link",
    "Hosts that train with others train with each other.",
    "no-route:l40s-01",
    source=SPLIT,
    component="network",
)
ENDED = _claim(
    "nodes.ended",
    "Every rank of every host trains to its end, in time.",
    "train:die:0",
    source=MEASURED + "; a barrier that hangs names nobody: huggingface/transformers issue 15618",
)
COLLECTIVES = _claim(
    "nodes.collectives",
    "Collectives across hosts give exactly their closed forms, on every rank.",
    "train:collective:0",
)
GRADIENTS = _claim(
    "nodes.gradients",
    "Gradients under DDP across hosts are a single process's, exactly.",
    "train:gradient:0:gradients",
)
PARAMETERS = _claim(
    "nodes.parameters",
    "After training across hosts all ranks hold the same parameters, bit by bit.",
    "train:parameter:0:transformer",
)
LOSS = _claim(
    "nodes.loss",
    "Training across hosts learns what there is to be learnt.",
    "train:loss:0:transformer",
)
TRANSPORT = _claim(
    "nodes.transport",
    "NCCL joins hosts by InfiniBand, RoCE or EFA where all of them have ports.",
    "no-route:l40s-01",
    source="NVIDIA/aicr issue 2689: 489 GB/s over EFA, 3 GB/s when NCCL fell back to TCP",
    component="network",
)
BANDWIDTH = _claim(
    "nodes.bandwidth",
    "all_reduce across hosts is measured, and not below what the site asks for.",
    "train:slow:0:bandwidth",
    source="nccl-tests, doc/PERFORMANCE.md (bus bandwidth); threshold of the inventory",
    component="network",
)
NODES: tuple[Check, ...] = (
    *(HOST, LINK, ENDED, COLLECTIVES, GRADIENTS, PARAMETERS, LOSS, TRANSPORT, BANDWIDTH),
)
