"""What NCCL says of itself with NCCL_DEBUG=INFO: how ranks are joined, and what it runs. Pure.

Travels to the host: standard library only, Python 3.10. The forms of the lines are those of NCCL
2.11 to 2.31: src/transport/{p2p,shm,net,nvls}.cc, src/enqueue.cc, src/graph/tuning.cc and
src/include/nccl_net.h of github.com/NVIDIA/nccl. What is of no known form is unknown, never good.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_PATH = re.compile(
    r"(?:Channel|Ring) \d+(?:/\d+)? ?: ?(\d+)(?:\[\w+\])? -> (\d+)(?:\[\w+\])? "
    r"(?:\[(?:send|receive)\] )?via (\S.*)$"
)
_NAMED = re.compile(
    r"(\w+)(?: \[Symmetric\])?: (\d+) Bytes -> (?:Algo (\w+) proto (\w+)|Kernel (\w+))"
)
_ENGINE = re.compile(r"(\w+) \[(?:Copy Engine|Hierarchical CE)\]: (\d+) Bytes -> ")
_NUMBERED = re.compile(r"(?:(\w+): )?(\d+) Bytes -> Algo (\d+) proto (\d+) time ")
_VERSION = re.compile(r"NCCL version ([0-9][0-9.]*)")
_NVLS = re.compile(r"NVLS multicast support is (not )?available")
_SETTING = re.compile(r"NCCL_[A-Z0-9_]+ set by environment to .*")

# src/include/nccl_common.h and plugin/nccl_tuner.h (2.18 to 2.23): the order of NCCL_ALGO_*.
ALGORITHMS = ("tree", "ring", "collnet-direct", "collnet-chain", "nvls", "nvls-tree", "pat")
PROTOCOLS = ("ll", "ll128", "simple")
_WORDS = {name.replace("-", ""): name for name in ALGORITHMS}
NVLS_FROM = 6
"""GPUs from which NCCL runs large all-reduces in NVSwitches of the third generation and newer: with
2 and 4 H100 it takes a ring, with 6 and 8 NVLS (published logs of NCCL 2.29.2 and 2.30.7 with
NCCL_DEBUG_SUBSYS=TUNING; NVIDIA/nccl-tests issue 212: 8 GPUs)."""


@dataclass(frozen=True)
class Path:
    """How data get from one rank to another."""

    source: int
    target: int
    kind: str
    """p2p, shm, ib, socket, net (another network) or other."""
    detail: str
    """NCCL's words, as P2P/CUMEM/read."""
    gdr: bool
    """The network card reads and writes the GPU's memory itself."""


@dataclass(frozen=True)
class Choice:
    """What NCCL runs for one operation of one size."""

    operation: str
    """AllReduce, AllGather ...; "" before NCCL 2.22, whose line does not name it."""
    bytes: int
    algorithm: str
    """One of ALGORITHMS, symmetric (kernels on symmetric memory, 2.27 and newer) or copy-engine
    (2.28 and newer)."""
    protocol: str


@dataclass(frozen=True)
class Statement:
    """All that was understood of NCCL's lines."""

    version: str
    paths: tuple[Path, ...]
    choices: tuple[Choice, ...]
    nvls: bool | None
    """Whether GPUs can be reached by multicast, as NVLS needs; None: nothing was said."""
    settings: tuple[str, ...]
    """Settings that the environment forced upon it."""
    unknown: tuple[str, ...]
    """Lines that should say how ranks are joined or what is run, and are of no known form."""


@dataclass(frozen=True)
class Judged:
    """One thing that NCCL said, held against the topology; `verdict` "" when it is as it should."""

    source: int | None
    target: int | None
    what: str
    found: str
    expected: str
    verdict: str
    """"", degraded, fail, or not-run for what was not said or not understood."""
    evidence: tuple[str, ...] = ()


def kind_of(detail: str) -> str:
    """What a path is, from NCCL's words for it."""
    head, _, rest = detail.partition("/")
    if head == "P2P":
        known = ("IPC", "CUMEM", "MNNVL", "direct pointer", "indirect", "direct")
        return "p2p" if rest.startswith(known) else "other"
    if head == "SHM" or detail.startswith("direct shared memory"):
        return "shm"
    if head == "NET" and rest:
        name = rest.partition("/")[0]
        # Plugins that speak to InfiniBand call themselves IBext, IBext_v8 ... (nccl-rdma-sharp).
        return "ib" if name.startswith("IB") else "socket" if name == "Socket" else "net"
    return "other"


def read(lines: Iterable[str]) -> Statement:
    """Understand NCCL's lines, of all ranks, in any order."""
    version, nvls = "", None
    paths: dict[Path, None] = {}
    choices: dict[Choice, None] = {}
    settings: dict[str, None] = {}
    unknown: list[str] = []
    for line in lines:
        if found := _VERSION.search(line):
            version = found[1]
        if found := _NVLS.search(line):
            nvls = not found[1] and nvls is not False
        if found := _SETTING.search(line):
            settings[found[0][:200]] = None
        if found := _PATH.search(line):
            detail = found[3].strip()[:80]
            kind = kind_of(detail)
            path = Path(int(found[1]), int(found[2]), kind, detail, "GDRDMA" in detail)
            paths[path] = None
            if kind == "other":
                unknown.append(line[:200])
        elif " via " in line and " -> " in line:
            unknown.append(line[:200])
        elif (choice := _choice(line)) is not None:
            choices[choice] = None
        elif " Bytes -> " in line:
            unknown.append(line[:200])
    return Statement(version, tuple(paths), tuple(choices), nvls, tuple(settings), tuple(unknown))


def _choice(line: str) -> Choice | None:
    if (found := _NUMBERED.search(line)) is not None:
        algorithm, protocol = int(found[3]), int(found[4])
        if algorithm < len(ALGORITHMS) and protocol < len(PROTOCOLS):
            return Choice(found[1] or "", int(found[2]), ALGORITHMS[algorithm], PROTOCOLS[protocol])
        return None
    if (found := _ENGINE.search(line)) is not None:
        return Choice(found[1], int(found[2]), "copy-engine", "")
    found = _NAMED.search(line)
    if found is None:
        return None
    if found[5]:
        return Choice(found[1], int(found[2]), "symmetric", found[5][:40])
    name = _WORDS.get(found[3].lower().replace("_", ""))
    protocol_name = found[4].lower()
    if name is None or protocol_name not in PROTOCOLS:
        return None
    return Choice(found[1], int(found[2]), name, protocol_name)


def transport(statement: Statement) -> str:
    """The way that data take, in one word for a figure's conditions: P2P/CUMEM, SHM, mixed ..."""
    kinds = {
        "/".join(one.detail.split("/")[:2]) if one.kind == "p2p" else one.kind.upper()
        for one in statement.paths
    }
    if len(kinds) > 1:
        return "mixed"
    return kinds.pop() if kinds else "unknown"


def within_host(statement: Statement, relations: Mapping[tuple[int, int], str]) -> list[Judged]:
    """What NCCL says of the ways between GPUs of one host, held against how they are joined.

    `relations`: for each directed pair of ranks, as `nvidia-smi topo -m` has it (NV18, PIX ...).
    """
    judged = [_not_understood(line) for line in statement.unknown[:4]]
    said: dict[tuple[int, int], list[Path]] = {}
    for path in statement.paths:
        said.setdefault((path.source, path.target), []).append(path)
    for pair, relation in sorted(relations.items()):
        paths = said.get(pair)
        what = f"transport from rank {pair[0]} to rank {pair[1]}"
        if not paths:
            why = "NCCL did not say how it joins them"
            judged.append(Judged(*pair, what, why, "", "not-run"))
            continue
        if relation == "unknown":
            why = "NVML does not say how these GPUs are joined"
            judged.append(Judged(*pair, what, why, "", "not-run"))
            continue
        linked = relation.startswith("NV")
        bad = [one for one in paths if one.kind != "p2p"] if linked else []
        # Over PCIe either is right; TCP inside of one host never is.
        bad = bad or [one for one in paths if one.kind == "socket"]
        found = ", ".join(dict.fromkeys(one.detail for one in bad or paths))
        wanted = f"P2P, as they are joined by NVLink ({relation})" if linked else "P2P or SHM"
        verdict = "fail" if bad and linked else "degraded" if bad else ""
        judged.append(Judged(*pair, what, found, wanted, verdict, statement.settings[:6]))
    return judged


def between_hosts(
    statement: Statement, host_of: Mapping[int, str], infiniband: bool
) -> list[Judged]:
    """What NCCL says of the ways between hosts: TCP where there is InfiniBand is a fault.

    `host_of`: rank -> host. `infiniband`: every host has an active InfiniBand or RoCE port.
    """
    judged = [_not_understood(line) for line in statement.unknown[:4]]
    across = [
        one
        for one in statement.paths
        if host_of.get(one.source) != host_of.get(one.target)
        and one.source in host_of
        and one.target in host_of
    ]
    if not across:
        why = "NCCL did not say how it joins the hosts"
        return [*judged, Judged(None, None, "transport between hosts", why, "", "not-run")]
    for path in across:
        what = (
            f"transport from rank {path.source} on {host_of[path.source]} to rank {path.target} "
            f"on {host_of[path.target]}"
        )
        wanted = "NET/IB" if infiniband else "a network"
        bad = (infiniband and path.kind == "socket") or path.kind == "shm"
        evidence = statement.settings[:6]
        verdict = "fail" if bad else ""
        judged.append(
            Judged(path.source, path.target, what, path.detail, wanted, verdict, evidence)
        )
        if infiniband and path.kind == "ib" and not path.gdr:
            what += ": GPUDirect RDMA"
            found, verdict = f"{path.detail}: through host memory", "degraded"
            judged.append(
                Judged(path.source, path.target, what, found, "GDRDMA", verdict, evidence)
            )
    return judged


def reductions(
    statement: Statement, *, gpus: int, switches: int, capability: tuple[int, int]
) -> Judged | None:
    """Whether the largest all-reduce runs in the NVSwitches where it can; None where it cannot.

    NVLS needs NVSwitch and Hopper or newer (src/graph/search.cc: NVS nodes, compute capability
    9.0), and multicast, which many virtual machines and a wrong fabric manager keep from it.
    """
    if not switches or capability < (9, 0) or gpus < NVLS_FROM:
        return None
    what = "algorithm of the largest all-reduce"
    wanted = (
        f"NVLS: {gpus} GPUs with NVSwitch and compute capability {capability[0]}.{capability[1]}"
    )
    choices = [one for one in statement.choices if one.operation in ("AllReduce", "")]
    if not choices:
        why = "NCCL did not say what it runs; some versions before 2.22 never do"
        return Judged(None, None, what, why, "", "not-run", statement.settings[:6])
    largest = max(choices, key=lambda one: one.bytes)
    same = [one for one in choices if one.bytes == largest.bytes]
    held = any(_in_switches(one) for one in same)
    found = f"{largest.algorithm} with {largest.protocol} for {largest.bytes} bytes"
    reasons = list(statement.settings[:6])
    if statement.nvls is False:
        reasons.append("NCCL: NVLS multicast support is not available")
    if statement.nvls is None:
        reasons.append("NCCL says nothing of multicast")
    return Judged(
        None, None, what, found, wanted, "" if held else "degraded", () if held else tuple(reasons)
    )


def _in_switches(choice: Choice) -> bool:
    # Kernels on symmetric memory that use multicast have it in their names: RSxLDMC_AGxSTMC.
    kernel = choice.algorithm == "symmetric" and "MC" in choice.protocol
    return kernel or choice.algorithm in ("nvls", "nvls-tree")


def _not_understood(line: str) -> Judged:
    what = "a statement of NCCL"
    return Judged(None, None, what, "it is of no form that is known", "", "not-run", (line,))
