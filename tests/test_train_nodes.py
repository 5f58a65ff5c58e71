"""The payload of training across hosts: what it says without a network, and real runs over gloo.

Two launchers on this machine stand for two hosts; they meet at its own address, not at loopback.
"""

from __future__ import annotations

import ast
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from verify import nodes
from verify.payload import ranks, train_nodes

FILE = Path(train_nodes.__file__)


def own_address() -> str:
    """This machine's address on its network, "" without any."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # a documentation address: nothing is sent
            found = str(probe.getsockname()[0])
    except OSError:
        return ""
    return "" if found.startswith("127.") else found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])


def started(number: int, endpoint: str, *more: str) -> subprocess.Popen[str]:
    words = ["--nodes=2", "--ranks=1", "--device=cpu", f"--endpoint={endpoint}", "--id=word"]
    words += ["--limit=100", "--patience=5", *(["--serve"] if number == 0 else []), *more]
    return subprocess.Popen(
        [sys.executable, "-B", str(FILE), *words],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def document(one: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = one.communicate(timeout=150)
    said = {"rc": one.returncode, "hung": False, "out": out, "err": err, "stage": ""}
    return nodes.read(said, {"id": "word", "nodes": 2, "ranks": 1})


def test_it_needs_the_standard_library_and_torch_alone_and_python_3_10() -> None:
    ours = {"verify.payload", "verify.payload.ranks"}
    for node in ast.walk(ast.parse(FILE.read_text(), feature_version=(3, 10))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module)]
        for name in names:
            assert name in ours or name.partition(".")[0] in {*sys.stdlib_module_names, "torch"}


def test_stages_are_those_that_the_controller_knows() -> None:
    assert train_nodes.STAGES == nodes.STAGES


def test_an_endpoint_at_loopback_is_refused_with_what_helps() -> None:
    found = train_nodes.way_to("127.0.0.1:4000")
    assert "train_address" in found["error"]
    assert "no way to" in train_nodes.way_to("no-such-name.invalid:4000")["error"]


def test_an_address_has_its_interface() -> None:
    assert train_nodes.interface_of("127.0.0.1") == "lo"
    assert train_nodes.interface_of("192.0.2.77") == ""
    assert train_nodes.interface_of("no address") == ""


@pytest.mark.parametrize(
    "words",
    [["--nodes=1"], ["--ranks=0"], ["--ranks=65"], ["--endpoint=x"], ["--device=tpu"]],
)
def test_wrong_options_are_refused(words: list[str]) -> None:
    right = ["--nodes=2", "--ranks=1", "--device=cpu", "--endpoint=10.0.0.1:4000", "--id=x"]
    assert train_nodes.arguments(right).nodes == 2
    with pytest.raises(SystemExit):
        train_nodes.arguments([*right, *words])


@pytest.mark.parametrize("world", [2, 3, 8, 64, 128, 1000, 4096])
def test_sums_over_however_many_ranks_are_exact_and_known(world: int) -> None:
    cpu = torch.device("cpu")
    for name, most in train_nodes.EXACT.items():
        count = min(train_nodes.MOST_VALUES, most // world)
        if count < 2:
            assert name in ("float16", "bfloat16")
            continue
        assert (count - 1) * world <= most
        values = train_nodes.Values(count, world, 1, cpu)
        every = torch.stack([values.of(rank, 40) for rank in range(world)])
        assert torch.equal(every.sum(0), values.summed[values.of_index(40)])
        assert torch.equal(every.min(0).values, values.least[values.of_index(40)])
        assert torch.equal(every.max(0).values, values.most[values.of_index(40)])
        assert torch.equal(every.flatten(), values.of_all(40))
        assert torch.equal(every[:, 30:].flatten(), values.of_all(10, 30))
        if world > 2:
            assert len({tuple(one.tolist()) for one in every}) > 1


def test_the_last_error_of_torchrun_is_found_among_its_words() -> None:
    words = (
        "W1122 warning\nTraceback (most recent call last):\n  File x\nsocket.gaierror: [Errno -2]"
    )
    assert train_nodes.last_error(words + " Name or service not known\n").startswith("socket.gai")
    assert train_nodes.last_error("all is well\n") == ""


needs_network = pytest.mark.skipif(not own_address(), reason="this machine has no network address")


@pytest.mark.long
@needs_network
def test_two_train_together_through_torchruns_rendezvous() -> None:
    endpoint = f"{own_address()}:{free_port()}"
    both = [document(one) for one in [started(at, endpoint) for at in (0, 1)]]
    assert {one["ranks"][0]["rank"] for one in both} == {0, 1}
    for one in both:
        (rank,) = one["ranks"]
        assert rank["ended"]
        assert rank["collectives"]["wrong_elements"] == 0
        assert rank["gradients"]["sent_wrong"] == rank["gradients"]["received_wrong"] == 0
        assert one["network"]["interface"] not in ("", "lo")
        assert one["run"]["backend"] == "gloo"
        assert all(figure["bus_gbs"] > 0 for figure in rank["bandwidth"])
    assert len({one["ranks"][0]["transformer"]["digest"] for one in both}) == 1


@pytest.mark.long
@needs_network
def test_one_that_stalls_says_where_and_so_does_who_waits() -> None:
    endpoint = f"{own_address()}:{free_port()}"
    two = [started(0, endpoint), started(1, endpoint, "--perturb=stall:0:20")]
    waits, stalls = (document(one) for one in two)
    (lost,), (hung,) = waits["ranks"], stalls["ranks"]
    assert (lost["calls"], lost["inside"]) == (20, True)
    assert (hung["calls"], hung["inside"]) == (19, False)
    assert lost["others"] or lost["stack"]
    assert hung["stack"][0].startswith("ranks.py")
    assert hung["sequence"] is not None
    assert stalls["perturbed"] == "stall:0:20"
    assert not ranks.alive(hung["pid"])
    assert not ranks.alive(lost["pid"])


@pytest.mark.long
@needs_network
def test_whoever_waits_for_a_host_that_never_comes_tells_so_when_stopped() -> None:
    one = started(0, f"{own_address()}:{free_port()}")
    time.sleep(6)
    one.terminate()
    found = document(one)
    assert found["ranks"][0]["rank"] is None
    assert json.dumps(found)
    assert found["seconds"] < 60
