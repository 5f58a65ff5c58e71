"""The payload of the torch tier by itself: exactness, who is named, and real runs on the CPU.

Whatever really runs whole is marked `long`: `make test` runs it, `make check` does not.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import pynvml
import pytest
import torch

from tests.test_bench import ON_GPUS, Asked, cpu_scene
from verify import bench
from verify.payload import gpu_bench, gpu_load
from verify.training import Document

FILE, LOAD = Path(gpu_bench.__file__), Path(gpu_load.__file__)


def run(*options: str, timeout: float = 150) -> Document:
    """The document of a real run on two ranks of the CPU, as the checks read it."""
    words = [sys.executable, "-B", str(FILE), "--ranks=2", "--device=cpu", *options]
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, text=True
    )
    said = {"rc": done.returncode, "hung": False, "out": done.stdout, "err": done.stderr}
    return bench.read({**said, "stage": ""}, 2, "cpu")


def asked(perturb: str) -> argparse.Namespace:
    return gpu_bench.arguments(["--ranks=2", "--device=cpu", f"--perturb={perturb}"])


# ---- the files


@pytest.mark.parametrize("file", [FILE, LOAD], ids=lambda file: file.name)
def test_they_need_the_standard_library_torch_and_nvml_alone(file: Path) -> None:
    tree = ast.parse(file.read_text(), feature_version=(3, 10))
    known = {*sys.stdlib_module_names, *(("torch",) if file == FILE else ("pynvml",))}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module)]
        for name in names:
            assert name.partition(".")[0] in known or name == "verify.payload.ranks"


@pytest.mark.parametrize(
    "words", [["--ranks=0"], ["--perturb=melt:0"], ["--perturb=die:x"], ["--perturb=die:0:now"]]
)
def test_what_makes_no_sense_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        gpu_bench.arguments(words)
    assert caught.value.code == 2


def test_only_a_cpu_pretends_and_only_what_a_test_wants() -> None:
    assert gpu_bench.pretended(asked("peer:1,die:0,clocks:0")) == ["peer", "clocks"]
    assert gpu_bench.pretended(asked("product:1")) == []
    real = gpu_bench.arguments(["--device=cuda", "--perturb=peer:1"])
    assert gpu_bench.pretended(real) == []


# ---- what makes it exact


@pytest.mark.parametrize("size", [64, 256])
def test_the_known_product_is_the_product_and_exact_in_every_type(size: int) -> None:
    a, b, product = gpu_bench.exact_factors(size, 7)
    assert torch.equal(a.to(torch.int64) @ b.to(torch.int64), product.to(torch.int64))
    assert int(product.abs().max()) <= 64
    assert int((b != 0).sum(0).min()) == int((b != 0).sum(0).max()) == 64
    assert len(product.unique()) > 20
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        made = a.to(dtype) @ b.to(dtype)
        assert torch.equal(made.to(torch.int32), product)


def test_the_checksum_sees_a_bit_and_two_words_that_changed_places() -> None:
    data = gpu_bench.bits(4096, 1)
    known = gpu_bench.checksum(data)
    other = data.clone()
    other[17] ^= 1 << 30
    assert gpu_bench.checksum(other) != known
    assert gpu_bench.differ(data, other) == 1
    swapped = data.clone()
    swapped[[3, 4]] = data[[4, 3]]
    assert gpu_bench.checksum(swapped) != known
    assert gpu_bench.checksum(data.clone()) == known


def test_random_data_are_integers_made_alike_everywhere() -> None:
    data = gpu_bench.values((64, 64), torch.float32, torch.device("cpu"), 3)
    assert torch.equal(data * 256, (data * 256).round())
    assert torch.equal(data.to(torch.bfloat16).to(torch.float32), data)
    assert gpu_bench.digest(data) == gpu_bench.digest(data.clone())
    assert gpu_bench.digest(torch.zeros(1)) != gpu_bench.digest(-torch.zeros(1))


@pytest.mark.parametrize("world", [1, 2, 3, 8, 64])
def test_sums_over_the_ranks_stay_exact_in_bfloat16(world: int) -> None:
    of = types.SimpleNamespace(device=torch.device("cpu"), world=world)
    parts = [gpu_bench.part(rank, 1000, 2, of) for rank in range(world)]  # type: ignore[arg-type]
    total = torch.stack(parts).sum(0)
    assert int(total.max()) < 256
    assert torch.equal(total.to(torch.bfloat16).to(torch.int64), total)
    if world in (2, 3, 8):
        assert not torch.equal(parts[0], parts[1])


def test_fp8_products_are_exact_or_left_out_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the CPU where its torch can: the way they are called, and no GPU."""
    cpu = types.SimpleNamespace(device=torch.device("cpu"), settle=lambda: None, cuda=True)
    for capability, reason in (((8, 0), "before compute capability 8.9"), ((9, 0), "")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, it=capability: it)
        way = gpu_bench.multiplied("fp8", cpu)  # type: ignore[arg-type]
        if isinstance(way, str):
            assert reason in way
            continue
        assert not reason
        a, b, product = gpu_bench.exact_factors(256, 9)
        made = way[0](a.to(way[1]), b.to(way[1]))
        assert torch.equal(made.to(torch.int32), product)
    monkeypatch.delattr(torch, "_scaled_mm", raising=False)
    assert "has no torch._scaled_mm" in str(gpu_bench.multiplied("fp8", cpu))  # type: ignore[arg-type]


# ---- what was said meanwhile


def sampled(times: list[float]) -> Document:
    counters: dict[str, Any] = {"pcie_replays": 3, "ecc_corrected": None}
    return {
        "index": 0, "uuid": "GPU-0", "name": "H", "slot": "", "gen_max": 5, "width_max": 16,
        "before": counters, "after": dict(counters),
        "samples": [[at, 40 + at, 100.0 + at, 1000 + at, 4, 5, 16] for at in times],
    }  # fmt: skip


def test_only_samples_under_load_count() -> None:
    gpu = gpu_bench.of_gpu(sampled([1, 2, 3, 4, 5]), 0, [2.0, 4.0], False, set())
    assert (gpu["samples"], gpu["temperature"], gpu["power"]) == (3, 44, 104.0)
    assert gpu["reasons"] == {"4": 3}
    assert gpu["pcie"] == {"gen": 5, "gen_max": 5, "width": 16, "width_max": 16}
    nothing = gpu_bench.of_gpu(sampled([1, 2]), 0, None, False, set())
    assert (nothing["samples"], nothing["temperature"], nothing["reasons"]) == (0, None, None)


def test_perturbed_samples_are_what_checks_must_find() -> None:
    faults = {("clocks", 0), ("pcie", 0), ("counters", 0)}
    gpu = gpu_bench.of_gpu(sampled([1, 2]), 0, [0, 9], True, faults)
    assert gpu["reasons"] == {"4": 2, "8": 2}
    assert gpu["pcie"]["width"] == 8
    assert (gpu["before"]["pcie_replays"], gpu["after"]["pcie_replays"]) == (3, 10)


def test_ranks_and_gpus_of_nvml_are_joined_by_their_uuids() -> None:
    left = {"state": "ok", "error": "", "relations": {"0-1": "NV18", "1-0": "NV18"}}
    gpus = [{**sampled([1]), "index": at, "uuid": f"GPU-{at}"} for at in (0, 1)]
    records = [
        {"rank": 0, "device": {"uuid": "GPU-1"}, "loaded": [0, 9]},
        {"rank": 1, "device": {"uuid": "GPU-0"}, "loaded": [0, 9]},
    ]
    real = gpu_bench.arguments(["--ranks=2", "--device=cuda"])
    found = gpu_bench.under_load({**left, "gpus": gpus}, records, real)
    assert [(one["rank"], one["index"]) for one in found["gpus"]] == [(0, 1), (1, 0)]
    assert found["relations"] == {"0-1": "NV18", "1-0": "NV18"}


def test_lines_of_nccl_are_short_once_each_and_bounded(tmp_path: Path) -> None:
    real = gpu_bench.arguments(["--ranks=2", "--device=cuda"])
    before = "h1:1:2 [0] NCCL INFO "
    ways = [f"{before}Channel {at:02}/0 : 0[0] -> 1[1] via P2P/CUMEM" for at in range(24)]
    other = [f"{before}Trees [0] 1/-1/-1->0->-1", f"{before}NCCL version 2.29.7+cuda13.0"]
    many = [f"{before}AllReduce: {at} Bytes -> Algo RING proto LL channel" for at in range(1000)]
    (tmp_path / "nccl.0.77").write_text("\n".join([*ways, *other, *many]))
    (tmp_path / "nccl.1.78").write_bytes(b"\xff\xfe broken \x00\n" + ways[0].encode())
    found = gpu_bench.nccl_lines(tmp_path, real)
    assert found["0"][0] == "NCCL version 2.29.7+cuda13.0"
    assert len(found["0"]) == gpu_bench.MOST_SAID
    assert found["1"] == ["Channel 00 : 0[0] -> 1[1] via P2P/CUMEM"]


# ---- NVML, prepared


class Prepared:
    """NVML with two GPUs joined by an NVSwitch; `absent` calls are not supported."""

    NVMLError = pynvml.NVMLError
    NVML_NVLINK_MAX_LINKS = 18
    NVML_VOLATILE_ECC = NVML_TEMPERATURE_GPU = 0
    NVML_MEMORY_ERROR_TYPE_CORRECTED = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = NVML_CLOCK_SM = 1
    ANSWERS: ClassVar[dict[str, Any]] = {
        "Init": None, "DeviceGetCount": 2, "DeviceGetUUID": "GPU-x", "DeviceGetName": "H100",
        "DeviceGetPciInfo": types.SimpleNamespace(busId="00000000:19:00.0"),
        "DeviceGetMaxPcieLinkGeneration": 5, "DeviceGetMaxPcieLinkWidth": 16,
        "DeviceGetCurrPcieLinkGeneration": 1, "DeviceGetCurrPcieLinkWidth": 16,
        "DeviceGetPcieReplayCounter": 4, "DeviceGetTotalEccErrors": 0,
        "DeviceGetRemappedRows": (1, 0, 0, 0), "DeviceGetTemperature": 33,
        "DeviceGetPowerUsage": 71_500, "DeviceGetClockInfo": 345,
        "DeviceGetCurrentClocksEventReasons": 1, "DeviceGetNvLinkState": 1,
        "DeviceGetNvLinkErrorCounter": 2, "DeviceGetP2PStatus": 0,
        "DeviceGetTopologyCommonAncestor": 50,
        "DeviceGetNvLinkRemotePciInfo": types.SimpleNamespace(busId="00000000:05:00.0"),
    }  # fmt: skip

    def __init__(self, *absent: str, **other: Any) -> None:
        self.absent, self.other = absent, other

    def __getattr__(self, name: str) -> Any:
        call = name.removeprefix("nvml")
        if call == "DeviceGetHandleByIndex":
            return lambda index: index
        answers = {**self.ANSWERS, **self.other}
        if call not in answers:
            raise AttributeError(name)

        def answer(*words: Any) -> Any:
            if call in self.absent:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return answers[call]

        return answer


SLOTS = ["00000000:19:00.0", "00000000:3b:00.0"]


def test_counters_and_samples_are_read_each_by_itself() -> None:
    reader = gpu_load.Reader(Prepared())
    assert reader.sample(0) == [33, 71.5, 345, 1, 1, 16]
    counters = reader.counters(0)
    assert counters["pcie_replays"] == 4
    assert counters["nvlink_crc_flit"] == 36  # two on each of 18 links
    less = gpu_load.Reader(Prepared("DeviceGetRemappedRows", "DeviceGetNvLinkState"))
    counters = less.counters(0)
    assert counters["remapped_uncorrected"] is None
    assert counters["nvlink_replay"] is None
    assert counters["pcie_replays"] == 4
    assert set(counters) == set(bench.COUNTERS)


@pytest.mark.parametrize(
    ("nvml", "relation"),
    [
        (Prepared(), "NV18"),  # through a switch every link leads to it
        (Prepared(DeviceGetNvLinkRemotePciInfo=types.SimpleNamespace(busId=SLOTS[1])), "NV18"),
        (Prepared(DeviceGetP2PStatus=3), "SYS"),
        (Prepared("DeviceGetP2PStatus", DeviceGetTopologyCommonAncestor=10), "PIX"),
        (Prepared("DeviceGetP2PStatus", "DeviceGetTopologyCommonAncestor"), "unknown"),
        (Prepared("DeviceGetNvLinkState"), "unknown"),
    ],
)
def test_how_two_gpus_are_joined(nvml: Prepared, relation: str) -> None:
    assert gpu_load.Reader(nvml).relation(0, 1, SLOTS) == relation


def test_without_nvml_the_reason_is_left(tmp_path: Path) -> None:
    words = [sys.executable, "-B", str(LOAD), str(tmp_path), "5"]
    done = subprocess.run(words, capture_output=True, timeout=30, env={"LD_LIBRARY_PATH": ""})
    assert done.returncode == 0, done.stderr
    left = json.loads((tmp_path / "load.json").read_text())
    assert left["state"] == "failed"
    assert left["error"]


# ---- real runs on the CPU


@pytest.mark.long
def test_two_ranks_on_the_cpu_are_green() -> None:
    document = run()
    result = Asked(document, cpu_scene())
    assert result.causes == {}
    assert {look.verdict for look in result.looks.values()} == {"pass"}
    assert set(result.not_asked) == ON_GPUS
    assert all(value > 0 for _, _, value, *_ in result.figures)
    assert document["seconds"] < 100
    dtypes = {one[4]["dtype"] for one in result.figures if one[0] == "bench.matmul"}
    assert dtypes == {"bf16", "fp32", "fp64"}
    collectives = [one for one in result.figures if "bytes" in one[4]]
    assert {one[0] for one in collectives} == {f"bench.{one}" for one in bench.FACTORS}
    keys = {(key, name, value) for key, name, value, _ in result.prints}
    assert len(keys) == 4  # both ranks have the same bits of three products and a training


@pytest.mark.long
def test_what_is_wrong_is_found_by_its_check_at_its_rank() -> None:
    document = run("--perturb=product:1,collective:0,replay:1,copy:0,peer:1,transport:0")
    result = Asked(document, cpu_scene())
    assert result.causes == {
        "bench.products": {1},
        "bench.collectives": {0},
        "bench.deterministic": {1},
        "bench.copies": {0},
        "bench.peer": {1},
        "bench.transport": {0, 1},  # there is no NVML here to say how GPUs are joined
    }


@pytest.mark.long
def test_a_rank_that_hangs_is_named_with_its_stage() -> None:
    document = run("--perturb=hang:1:memory", "--patience=2")
    result = Asked(document, cpu_scene())
    assert result.causes == {"bench.ended": {1}}
    assert result.looks["bench.ended"].verdict == "hung"
    (finding,) = [one for one in result.looks["bench.ended"].findings if not one.because]
    assert "hung in stage memory" in finding.found
