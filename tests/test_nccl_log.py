"""What is understood of NCCL's own log, and what is made of it against the topology.

The lines have the forms that NCCL prints, as its source has them (github.com/NVIDIA/nccl, in the
versions that are named) or published logs show them; names of hosts and numbers are our own.
"""

from __future__ import annotations

import pytest

from verify.nccl_log import (
    Choice,
    Statement,
    between_hosts,
    kind_of,
    read,
    reductions,
    transport,
    within_host,
)

BEFORE = "h1:1234:1250 [0] NCCL INFO "
PAIRS = {(0, 1): "NV18", (1, 0): "NV18"}


def said(*lines: str) -> Statement:
    return read(BEFORE + line for line in lines)


# ---- ways between ranks

PATHS = [
    # src/transport/p2p.cc 2.11 to 2.17: bus ids in the brackets; 2.18 and newer: NVML's index
    ("Channel 00 : 0[19000] -> 1[3b000] via P2P/IPC", "p2p", "P2P/IPC", False),
    ("Channel 00/0 : 0[0] -> 1[1] via P2P/IPC/read", "p2p", "P2P/IPC/read", False),
    ("Channel 00/0 : 0[0] -> 1[1] via P2P/direct pointer/read", "p2p", None, False),
    ("Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM", "p2p", "P2P/CUMEM", False),
    ("Channel 23/1 : 0[0] -> 1[1] via P2P/CUMEM/read", "p2p", "P2P/CUMEM/read", False),
    ("Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM/CE", "p2p", "P2P/CUMEM/CE", False),
    ("Channel 00/0 : 0[0] -> 1[1] via P2P/MNNVL", "p2p", "P2P/MNNVL", False),
    ("Channel 00/0 : 0[0] -> 1[1] via P2P/indirect/2[2]", "p2p", "P2P/indirect/2[2]", False),
    # src/transport/shm.cc
    ("Channel 00 : 0[0] -> 1[1] via SHM/direct/direct", "shm", "SHM/direct/direct", False),
    ("Channel 00/0 : 0[0] -> 1[1] via SHM/CE/direct", "shm", "SHM/CE/direct", False),
    ("Channel 00 : 0[19000] -> 1[3b000] via direct shared memory", "shm", None, False),
    # src/transport/net.cc; (7): by way of rank 7 (PXN); Shared: buffers in common
    ("Channel 00/0 : 0[0] -> 8[0] [send] via NET/IB/0/GDRDMA", "ib", "NET/IB/0/GDRDMA", True),
    ("Channel 00/0 : 7[7] -> 8[0] [receive] via NET/IB/3", "ib", "NET/IB/3", False),
    ("Channel 01/1 : 1[1] -> 8[0] [send] via NET/IB/0(0)/GDRDMA/Shared", "ib", None, True),
    ("Channel 00/0 : 0[0] -> 8[0] [send] via NET/IB/0/GDRDMA(PCI)", "ib", None, True),
    ("Channel 00/0 : 1[0] -> 0[0] [receive] via NET/Socket/0", "socket", "NET/Socket/0", False),
    ("Channel 00/02 : 0 -> 1 via NET/Socket/0", "socket", "NET/Socket/0", False),
    # plugins: NVIDIA's for InfiniBand (nccl-rdma-sharp-plugins), Amazon's (aws-ofi-nccl)
    ("Channel 00/0 : 1[0] -> 0[0] [receive] via NET/IBext_v8/1/GDRDMA", "ib", None, True),
    ("Ring 01 : 0[160] -> 1[160] [send] via NET/AWS Libfabric/0/GDRDMA", "net", None, True),
]


@pytest.mark.parametrize(("line", "kind", "detail", "gdr"), PATHS, ids=lambda one: str(one)[:60])
def test_ways_are_understood_in_every_form(
    line: str, kind: str, detail: str | None, gdr: bool
) -> None:
    (path,) = said(line).paths
    assert (path.kind, path.gdr) == (kind, gdr)
    assert detail in (None, path.detail)
    assert path.source != path.target


@pytest.mark.parametrize(
    "line",
    [
        "Channel 00/0 : 0[0] -> 1[1] via TELEPATHY/0",
        "Channel 00/0 : 0[0] -> 1[1] via P2P/NEWEST",
        "Channel 00/0 : 0[0] -> 1[1] via NET",
        "Channel A/0 : 0[0] -> 1[1] via P2P/CUMEM",
        "Lane 00 : 0 -> 1 via P2P/CUMEM",
    ],
)
def test_a_way_of_no_known_form_is_kept_as_unknown(line: str) -> None:
    statement = said(line)
    assert statement.unknown
    judged = within_host(statement, PAIRS)
    assert judged[0].verdict == "not-run"
    assert all(one.verdict for one in judged)


def test_lines_of_other_things_are_no_ways() -> None:
    statement = said(
        "Trees [0] 1/-1/-1->0->-1 [1] -1/-1/-1->0->1",
        "Ring 00 : 7 -> 0 -> 1",
        "Connected all rings, use ring PXN 0 GDR 1",
        "24 coll channels, 24 collnet channels, 16 nvls channels, 32 p2p channels",
        "Using network IB",
    )
    assert statement == Statement("", (), (), None, (), ())


# ---- what is run


@pytest.mark.parametrize(
    ("line", "choice"),
    [
        # src/graph/tuning.cc, src/enqueue.cc 2.18 to 2.21; 2.22 and 2.23 name the operation
        ("65536 Bytes -> Algo 1 proto 2 time 14.2", Choice("", 65536, "ring", "simple")),
        ("4096 Bytes -> Algo 0 proto 0 time 9.5", Choice("", 4096, "tree", "ll")),
        ("AllGather: 37756928 Bytes -> Algo 1 proto 2 time 2860.208008",
         Choice("AllGather", 37756928, "ring", "simple")),
        ("AllReduce: 9 Bytes -> Algo 4 proto 2 time 1.0", Choice("AllReduce", 9, "nvls", "simple")),
        # src/enqueue.cc 2.24 and newer; 2.29 and newer say more behind
        ("AllReduce: 4096 Bytes -> Algo TREE proto LL channel{Lo..Hi}={0..1}",
         Choice("AllReduce", 4096, "tree", "ll")),
        ("AllReduce: 2097152 Bytes -> Algo NVLS proto SIMPLE channel{Lo..Hi}={0..15} "
         "cgaClusterSize 4", Choice("AllReduce", 2097152, "nvls", "simple")),
        ("ReduceScatter: 64 Bytes -> Algo RING proto LL128 channel{Lo..Hi}={0..15}",
         Choice("ReduceScatter", 64, "ring", "ll128")),
        ("AllReduce: 64 Bytes -> Algo NVLS_TREE proto SIMPLE channel{Lo..Hi}={0..15}",
         Choice("AllReduce", 64, "nvls-tree", "simple")),
        ("AllReduce: 64 Bytes -> Algo COLLNET_DIRECT proto SIMPLE channel{Lo..Hi}={0..1}",
         Choice("AllReduce", 64, "collnet-direct", "simple")),
        ("AllGather: 64 Bytes -> Algo PAT proto SIMPLE channel{Lo..Hi}={0..1}",
         Choice("AllGather", 64, "pat", "simple")),
        # symmetric memory, 2.27 and newer
        ("AllReduce [Symmetric]: 1048576 Bytes -> Kernel AllReduce_RSxLDMC_AGxSTMC nchannels 8 "
         "nthreads 512", Choice("AllReduce", 1048576, "symmetric", "AllReduce_RSxLDMC_AGxSTMC")),
        ("AllGather [Copy Engine]: 64 Bytes -> cudaMemcpy; CE synchronization with NVLS",
         Choice("AllGather", 64, "copy-engine", "")),
        ("AlltoAll [Hierarchical CE]: 64 Bytes -> RMA proxy + CE",
         Choice("AlltoAll", 64, "copy-engine", "")),
    ],
)  # fmt: skip
def test_algorithms_are_understood_in_every_form(line: str, choice: Choice) -> None:
    statement = said(line)
    assert statement.choices == (choice,)
    assert statement.unknown == ()


@pytest.mark.parametrize(
    "line",
    [
        "65536 Bytes -> Algo 11 proto 2 time 14.2",
        "AllReduce: 64 Bytes -> Algo MAGIC proto SIMPLE channel{Lo..Hi}={0..1}",
        "AllReduce: 64 Bytes -> Algo RING proto LL256 channel{Lo..Hi}={0..1}",
        "AllReduce: 64 Bytes -> nothing at all",
    ],
)
def test_an_algorithm_of_no_known_form_is_unknown(line: str) -> None:
    statement = said(line)
    assert statement.choices == ()
    assert statement.unknown


def test_version_multicast_and_settings() -> None:
    statement = said(
        "NCCL version 2.29.7+cuda13.0",
        "NVLS multicast support is available on dev 0 (NVLS_NCHANNELS 16)",
        "NCCL_P2P_DISABLE set by environment to 1.",
        "NCCL_P2P_DISABLE set by environment to 1.",
    )
    assert statement.version == "2.29.7"
    assert statement.nvls is True
    assert statement.settings == ("NCCL_P2P_DISABLE set by environment to 1.",)
    # 2.30 says more; and one GPU without it is enough to have none
    some = said(
        "NVLS multicast support is available on dev 0, transport enabled, symmetric multimem on",
        "NVLS multicast support is not available on dev 1 (NVLS_NCHANNELS 0)",
    )
    assert some.nvls is False
    assert said("NCCL version 2.18.1+cuda12.1").nvls is None


# ---- against the topology of one host


def ways(way: str) -> Statement:
    return said(f"Channel 00/0 : 0[0] -> 1[1] via {way}", f"Channel 00/0 : 1[1] -> 0[0] via {way}")


@pytest.mark.parametrize(
    ("way", "relation", "verdict"),
    [
        ("P2P/CUMEM", "NV18", ""),
        ("P2P/IPC", "NV4", ""),
        ("SHM/direct/direct", "NV18", "fail"),
        ("NET/Socket/0", "NV18", "fail"),
        ("NET/IB/0/GDRDMA", "NV18", "fail"),
        ("SHM/direct/direct", "SYS", ""),
        ("P2P/CUMEM", "PIX", ""),
        ("NET/Socket/0", "SYS", "degraded"),
        ("P2P/CUMEM", "unknown", "not-run"),
        ("P2P/NEWEST", "NV18", "not-run"),
    ],
)
def test_nvlink_between_gpus_is_used(way: str, relation: str, verdict: str) -> None:
    judged = within_host(ways(way), dict.fromkeys(PAIRS, relation))
    worst = [one.verdict for one in judged]
    assert worst[0] == verdict
    assert all(one.found for one in judged)


def test_one_channel_through_host_memory_is_enough() -> None:
    statement = said(
        "Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM",
        "Channel 01/0 : 0[0] -> 1[1] via SHM/direct/direct",
        "Channel 00/0 : 1[1] -> 0[0] via P2P/CUMEM",
        "NCCL_P2P_LEVEL set by environment to LOC",
    )
    first, second = within_host(statement, PAIRS)
    assert (first.source, first.target, first.verdict) == (0, 1, "fail")
    assert first.found == "SHM/direct/direct"
    assert first.evidence == ("NCCL_P2P_LEVEL set by environment to LOC",)
    assert second.verdict == ""
    assert transport(statement) == "mixed"


def test_a_pair_of_which_nothing_was_said_is_not_run() -> None:
    (first, second) = within_host(said("Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM"), PAIRS)
    assert (first.verdict, second.verdict) == ("", "not-run")


@pytest.mark.parametrize(
    ("way", "word"),
    [("P2P/CUMEM/read", "P2P/CUMEM"), ("SHM/direct/direct", "SHM"), ("NET/IB/0/GDRDMA", "IB")],
)
def test_the_transport_in_one_word(way: str, word: str) -> None:
    assert transport(ways(way)) == word
    assert transport(said()) == "unknown"


# ---- against what NVSwitch can


def reduced(
    *lines: str, gpus: int = 8, switches: int = 4, capability: tuple[int, int] = (9, 0)
) -> str | None:
    judged = reductions(said(*lines), gpus=gpus, switches=switches, capability=capability)
    return None if judged is None else judged.verdict


NVLS = "AllReduce: 1073741824 Bytes -> Algo NVLS proto SIMPLE channel{Lo..Hi}={0..15}"
RING = "AllReduce: 1073741824 Bytes -> Algo RING proto SIMPLE channel{Lo..Hi}={0..23}"
SMALL = "AllReduce: 4096 Bytes -> Algo TREE proto LL channel{Lo..Hi}={0..1}"


def test_switches_reduce_where_they_can() -> None:
    assert reduced(SMALL, NVLS) == ""
    assert reduced("1073741824 Bytes -> Algo 4 proto 2 time 9.9") == ""
    assert reduced(SMALL, RING) == "degraded"
    assert reduced() == "not-run"
    kernel = (
        "AllReduce [Symmetric]: 1073741824 Bytes -> Kernel AllReduce_RSxLD{}_AGxST{} nchannels 8"
    )
    assert reduced(kernel.format("MC", "MC")) == ""
    assert reduced(kernel.format("", "")) == "degraded"


@pytest.mark.parametrize(
    "other", [{"gpus": 4}, {"switches": 0}, {"capability": (8, 0)}], ids=lambda one: str(one)
)
def test_rings_are_right_where_switches_do_not_reduce(other: dict[str, int]) -> None:
    assert reduced(RING, **other) is None  # type: ignore[arg-type]


def test_why_switches_do_not_reduce_is_said() -> None:
    statement = said(
        RING,
        "NVLS multicast support is not available on dev 0 (NVLS_NCHANNELS 0)",
        "NCCL_ALGO set by environment to RING",
    )
    judged = reductions(statement, gpus=8, switches=4, capability=(9, 0))
    assert judged is not None
    assert judged.evidence == (
        "NCCL_ALGO set by environment to RING",
        "NCCL: NVLS multicast support is not available",
    )


# ---- between hosts

HOSTS = {0: "h1", 1: "h1", 2: "h2", 3: "h2"}


@pytest.mark.parametrize(
    ("way", "infiniband", "verdicts"),
    [
        ("NET/IB/0/GDRDMA", True, [""]),
        ("NET/IB/0", True, ["", "degraded"]),
        ("NET/Socket/0", True, ["fail"]),
        ("NET/Socket/0", False, [""]),
        ("NET/AWS Libfabric/0/GDRDMA", True, [""]),
        ("P2P/MNNVL", True, [""]),
        ("SHM/direct/direct", False, ["fail"]),
    ],
)
def test_infiniband_between_hosts_is_used(way: str, infiniband: bool, verdicts: list[str]) -> None:
    statement = said(
        "Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM",
        f"Channel 00/0 : 1[1] -> 2[0] [send] via {way}",
    )
    judged = between_hosts(statement, HOSTS, infiniband)
    assert [one.verdict for one in judged] == verdicts
    assert "from rank 1 on h1 to rank 2 on h2" in judged[0].what


def test_nothing_said_between_hosts_is_not_run() -> None:
    (judged,) = between_hosts(said("Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM"), HOSTS, True)
    assert judged.verdict == "not-run"


def test_kinds_of_words_that_nobody_has_seen() -> None:
    assert kind_of("") == "other"
    assert kind_of("P2P") == "other"
    assert kind_of("NET/") == "other"
