"""The end of a verify run: suspects are asked again once, good hosts keep their figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.cli import main
from tests.fleetwide import host, slowed
from tests.test_verify_command import inventory, last_run
from tests.test_verify_runner import Lab
from verify import runner
from verify.bundle import ROOM, Bundle
from verify.checks import Check
from verify.commands import judged
from verify.commands import verify as command
from verify.judging.claims import CLAIMS

ONHOST = """\
import hashlib, json, os, sys
request = json.load(sys.stdin)
place = request["prefix"]
with open(os.path.join(place, "asked.jsonl"), "a") as file:
    file.write(json.dumps([request["level"], request["checks"]]) + "\\n")
document = json.load(open(os.path.join(place, "second.json" if request["checks"] else "plan.json")))
document.update(nonce=request["nonce"], host=request["host"], level=request["level"])
document["bundle"] = hashlib.sha256(open("MANIFEST", "rb").read()).hexdigest()
document["checks"] = [
    one for one in document["checks"] if not request["checks"] or one["id"] in request["checks"]
]
from pathlib import Path
if not request["checks"]:
    sys.path.insert(0, os.getcwd())
    from verify import past
    past.offer(document, place)
print("GPUFLEET " + json.dumps(document))
"""
BUNDLE = Bundle(
    {
        "verify/__init__.py": b"",
        "verify/attended.py": (ROOM / "attended.py").read_bytes(),
        "verify/onhost.py": ONHOST.encode(),
        "verify/past.py": (ROOM / "past.py").read_bytes(),
    }
)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Hosts that are folders and answer with a whole document each, figures and all."""
    lab = Lab(tmp_path)
    ids = {one["id"] for one in host("gpu1", gpus=4)["checks"]}
    checks = {
        id: Check(id, "A claim.", "standard" if "." in id[:6] else "quick", "keep", (), "", "")
        for id in sorted(ids)
    } | {one.id: one for one in CLAIMS}
    monkeypatch.setattr(runner, "connect", lab.connect)
    monkeypatch.setattr(judged, "connect", lab.connect)
    monkeypatch.setattr(command, "with_site", lambda files: BUNDLE)
    monkeypatch.setattr(command, "catalogue", lambda: checks)
    monkeypatch.chdir(tmp_path)
    return lab


def add(lab: Lab, name: str, first: dict[str, Any], second: dict[str, Any] | None = None) -> Path:
    prefix = lab.add(name)
    (prefix / "expected.json").write_text("{}")
    (prefix / "plan.json").write_text(json.dumps(first))
    if second is not None:
        (prefix / "second.json").write_text(json.dumps(second))
    return prefix


def asked(prefix: Path) -> list[Any]:
    return [json.loads(line) for line in (prefix / "asked.jsonl").read_text().splitlines()]


def slow(name: str) -> dict[str, Any]:
    made = host(name, gpus=4)
    slowed("bench.matmul", 0.5, 3)(made)
    return made


def test_a_suspect_is_measured_again_and_a_good_host_keeps_its_figures(lab: Lab) -> None:
    good = add(lab, "gpu1", host("gpu1", gpus=4))
    bad = add(lab, "gpu2", slow("gpu2"), slow("gpu2"))
    assert main(["verify", inventory(lab), "--level", "standard"]) == 1
    run, hosts, journal = last_run()
    assert run["hosts"] == {"gpu1": "pass", "gpu2": "fail"}
    assert hosts["gpu2"]["message"].startswith("perf.compute: gpu 3: matmul (fp16): found 350")
    assert asked(good) == [["standard", []]]
    assert asked(bad) == [["standard", []], ["standard", ["bench.copies", "bench.ended"]]]
    assert {one["host"] for one in journal if one["event"] == "host-judged"} == {"gpu1", "gpu2"}
    kept = json.loads((good / "figures.json").read_text())
    assert len(kept["measurements"]) == len(host("gpu1", gpus=4)["measurements"])
    assert not (bad / "figures.json").exists(), "a host with a finding keeps what it had"
    assert (bad / "figures.candidate.json").exists()


def test_a_second_measurement_that_does_not_agree_makes_it_degraded(lab: Lab) -> None:
    add(lab, "gpu1", host("gpu1", gpus=4))
    bad = add(lab, "gpu2", slow("gpu2"), host("gpu2", gpus=4))
    assert main(["verify", inventory(lab), "--level", "standard"]) == 0
    run, hosts, _ = last_run()
    assert run["hosts"] == {"gpu1": "pass", "gpu2": "degraded"}
    assert "unstable: measured again 700 TFLOPS" in hosts["gpu2"]["message"]
    assert not (bad / "figures.json").exists()


def test_a_suspect_that_answers_no_second_time_is_not_run(lab: Lab) -> None:
    add(lab, "gpu1", host("gpu1", gpus=4))
    add(lab, "gpu2", slow("gpu2"))
    assert main(["verify", inventory(lab), "--level", "standard"]) == 4
    _, hosts, _ = last_run()
    assert hosts["gpu2"]["verdict"] == "not-run"
    assert "suspected, and not measured again: gpu2: the checks ended" in hosts["gpu2"]["message"]


def test_what_an_upgrade_took_is_kept_only_when_it_is_accepted(lab: Lab) -> None:
    prefix = add(lab, "gpu1", host("gpu1", gpus=4))
    words = ["verify", inventory(lab), "--level", "standard"]
    assert main(words) == 0
    before = (prefix / "figures.json").read_text()
    lower = host("gpu1", gpus=4)
    slowed("bench.triad", 0.8)(lower)
    past = json.loads(before)
    del past["schema"], past["nonce"]
    lower["past"] = {**past, "machine": "0", "software": {**past["software"], "driver": "550.1"}}
    (prefix / "plan.json").write_text(json.dumps(lower))
    assert main(words) == 0
    _, hosts, _ = last_run()
    assert hosts["gpu1"]["verdict"] == "degraded"
    assert hosts["gpu1"]["message"].startswith("perf.memory: gpu 0: triad: found 2376 GB/s")
    assert (prefix / "figures.json").read_text() == before
    assert main([*words, "--accept-figures"]) == 0
    assert (prefix / "figures.json").read_text() != before
    run, _, _ = last_run()
    assert run["command"][-1] == "--accept-figures"


def test_figures_that_cannot_be_kept_are_a_note_and_no_finding(lab: Lab) -> None:
    prefix = add(lab, "gpu1", host("gpu1", gpus=4))
    (prefix / "figures.json").mkdir()
    assert main(["verify", inventory(lab), "--level", "standard"]) == 0
    _, hosts, journal = last_run()
    assert hosts["gpu1"]["verdict"] == "pass"
    assert hosts["gpu1"]["notes"][-1].startswith("its figures were not kept: past: IsADirectory")
    assert any("not kept" in one.get("text", "") for one in journal if one["event"] == "note")


def test_kept_figures_that_cannot_be_used_are_a_note(lab: Lab) -> None:
    add(lab, "gpu1", {**host("gpu1", gpus=4), "past_fault": "figures.json is no JSON"})
    assert main(["verify", inventory(lab), "--level", "standard"]) == 0
    _, hosts, _ = last_run()
    assert "its kept figures: figures.json is no JSON" in hosts["gpu1"]["notes"]


def test_one_claim_of_the_fleet_asks_what_measures_it_and_keeps_nothing(lab: Lab) -> None:
    prefix = add(lab, "gpu1", host("gpu1", gpus=4), host("gpu1", gpus=4))
    words = ["--level", "standard", "--check", "perf.training"]
    assert main(["verify", inventory(lab), *words]) == 0
    assert asked(prefix) == [["standard", ["train.ended"]]]
    _, hosts, _ = last_run()
    assert [one["id"] for one in hosts["gpu1"]["result"]["checks"]] == [
        "train.ended",
        "perf.training",
    ]
    assert not (prefix / "figures.json").exists()
