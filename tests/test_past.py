"""The figures that a host keeps: offered by a run, kept on a controller's word, distrusted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import reported
from tests.verified import document, gpu
from verify import onhost, past
from verify.results import HostResult

GPUS = [{**gpu(index), "board": {"vbios": "96.00"}} for index in range(4)]
FIGURE = {
    "name": "bench.matmul",
    "unit": "TFLOPS",
    "value": 700.0,
    "component": {"kind": "gpu", "index": 0, "uuid": GPUS[0]["uuid"]},
    "conditions": {"dtype": "bf16"},
}


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    """A prefix with a state of its own: there the record lies too, also root's."""
    (tmp_path / "expected.json").write_text("{}")
    return str(tmp_path)


def run(nonce: str = "n0nce", **changed: Any) -> dict[str, Any]:
    made = document(gpus=4, measurements=[FIGURE], software={"driver": "580.1"}, nonce=nonce)
    return {**made, **changed}


def test_a_run_is_offered_kept_by_its_nonce_and_read_again(prefix: str) -> None:
    assert past.kept(GPUS, prefix) == (None, "")
    past.offer(run(), prefix)
    assert past.kept(GPUS, prefix) == (None, ""), "nobody has called it good"
    path = past.keep("n0nce", prefix)
    assert path == f"{prefix}/figures.json"
    assert os.stat(path).st_mode & 0o777 == 0o644
    found, fault = past.kept(GPUS, prefix)
    assert fault == ""
    assert found is not None
    assert found["measurements"] == [FIGURE]
    result = HostResult.model_validate(run(past=found))
    assert result.past is not None
    assert result.past.software == {"driver": "580.1"}


def test_another_run_s_candidate_is_not_kept(prefix: str) -> None:
    past.offer(run("first"), prefix)
    past.offer(run("second"), prefix)
    with pytest.raises(past.Unusable, match="is not of this run"):
        past.keep("first", prefix)
    past.keep("second", prefix)
    with pytest.raises(past.Unusable, match="is not of this run"):
        past.keep("second", prefix)
    assert sorted(os.listdir(prefix)) == ["expected.json", "figures.json"]


def test_a_machine_is_its_gpus_and_one_exchanged_makes_no_other(prefix: str) -> None:
    past.offer(run(), prefix)
    past.keep("n0nce", prefix)
    three = [*GPUS[:3], gpu(3, "other")]
    assert past.kept(three, prefix)[0] is not None
    assert past.kept(GPUS[:2], prefix)[0] is not None
    found, fault = past.kept([gpu(index, "other") for index in range(4)], prefix)
    assert found is None
    assert fault.endswith("is of another machine: it is not used, the next good run replaces it")
    assert past.kept([], prefix)[0] is None
    assert past.machine([]) == past.machine([{"serial": "", "uuid": ""}])


BAD: dict[str, tuple[Any, str]] = {
    "no JSON": (b"{", "is no JSON"),
    "deep": (b"[" * 100_000, "is no JSON"),
    "a list": (b"[]", "is no record of form 1"),
    "another schema": ({"schema": 2}, "is no record of form 1"),
    "huge": (b" " * (past.MOST_BYTES + 1), "is larger than 1048576 bytes"),
    "not a number": ({"measurements": [{**FIGURE, "value": float("nan")}]}, "is no figure"),
    "endless": ({"measurements": [{**FIGURE, "value": float("inf")}]}, "is no figure"),
    "a truth": ({"measurements": [{**FIGURE, "value": True}]}, "is no figure"),
    "an index": (
        {"measurements": [{**FIGURE, "component": {"index": -1}}]},
        "is no figure",
    ),
    "strange": ({"measurements": [{**FIGURE, "rm": "-rf"}]}, "is no figure"),
    "no figures": ({"measurements": None}, "are no list of figures"),
    "too many": ({"measurements": [FIGURE] * 5001}, "measurements are no list of figures"),
    "long": ({"stack": "x" * 300}, "stack is no text"),
    "software": ({"software": {"driver": 580}}, "software are no names with versions"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_record_that_cannot_be_used_is_said_and_not_used(name: str, prefix: str) -> None:
    content, words = BAD[name]
    past.offer(run(), prefix)
    path = Path(past.keep("n0nce", prefix))
    good = json.loads(path.read_text())
    data = content if isinstance(content, bytes) else json.dumps({**good, **content}).encode()
    path.write_bytes(data)
    found, fault = past.kept(GPUS, prefix)
    assert found is None
    assert words in fault
    assert "the next good run replaces it" in fault
    assert HostResult.model_validate(run(past_fault=fault)).past is None


def test_more_figures_than_a_record_holds_are_refused_when_they_are_offered(prefix: str) -> None:
    with pytest.raises(ValueError, match="a record holds"):
        past.offer(run(measurements=[FIGURE] * 6000), prefix)
    assert os.listdir(prefix) == ["expected.json"]


def test_it_runs_as_a_program(prefix: str) -> None:
    past.offer(run(), prefix)

    def keep(text: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-I", "-S", "-B", str(Path(past.__file__))]
        return subprocess.run(words, input=text, capture_output=True, text=True, timeout=20)

    for text in ("", "[]", "{}", json.dumps({"nonce": "x", "prefix": prefix})):
        done = keep(text)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("past: ")
    done = keep(json.dumps({"nonce": "n0nce", "prefix": prefix}))
    assert (done.returncode, done.stderr) == (0, f"past: kept in {prefix}/figures.json\n")


def test_software_is_what_could_be_read() -> None:
    report = reported.report("hgx-h100")
    found = past.software(report, GPUS)
    assert found["driver"] == report["nvml"]["driver"]
    assert found["torch"] == report["torch"]["version"]
    assert found["vbios"] == "96.00"
    report["nvml"]["driver"] = None
    report["torch"] = {"state": "absent"}
    assert set(past.software(report, [])) == {"kernel"}


@pytest.mark.parametrize(
    ("changed", "whole"),
    [
        ({"level": "standard"}, True),
        ({"level": "deep"}, True),
        ({"level": "quick"}, False),
        ({"level": "workload"}, False),
        ({"level": "standard", "checks": ["bench.copy"]}, False),
        ({"level": "standard", "env": "/data/venv"}, False),
    ],
)
def test_only_a_whole_run_of_the_host_s_own_environment_is_offered(
    changed: dict[str, Any], whole: bool, prefix: str
) -> None:
    request = {**reported.request(prefix=prefix), **changed}
    onhost._offer(run(), request)
    assert os.path.exists(f"{prefix}/figures.candidate.json") == whole
