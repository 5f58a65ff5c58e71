"""What Slurm says of hosts: who is excused for it, who is not, and how it is shown."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.fleet.inventory import Fleet, Host
from deploy.fleet.spec import NodeSpec
from tests.verified import healthy, recorded, unreachable
from verify import slurm
from verify.payload import slurm_job
from verify.report.advice import again
from verify.report.document import document
from verify.report.html import headline
from verify.report.read import look, read_view
from verify.report.terminal import show
from verify.slurm import by_host, read

ANSWER = """\
gpu1|gpu1|10.0.0.1|idle|Unknown|Unknown|none
gpu2|gpu2|10.0.0.2|drained*|2026-11-22T19:00:00|alice(1001)|bad disk | second
gpu2|gpu2|10.0.0.2|drained*|2026-11-22T19:00:00|alice(1001)|bad disk | second
gpu3|host3|10.0.0.3|down*|2026-11-22T18:00:00|slurm(64030)|Not responding
gpu4|gpu4|10.0.0.4|idle~|Unknown|root(0)|none
gpu5|gpu5|10.0.0.5|allocated|Unknown|Unknown|none
"""


def test_states_that_keep_a_node_out_of_service() -> None:
    found = {node.names[0]: node for node in read(ANSWER)}
    assert {name: node.absent for name, node in found.items()} == {
        "gpu1": False, "gpu2": True, "gpu3": True, "gpu4": True, "gpu5": False,
    }  # fmt: skip
    assert found["gpu2"].text("login1") == (
        "Slurm (asked on login1) has it DRAINED*: bad disk | second, since 2026-11-22T19:00:00, "
        "by alice"
    )
    assert found["gpu4"].text("login1") == "Slurm (asked on login1) has it IDLE~"


@pytest.mark.parametrize(
    ("state", "absent"),
    [
        ("down", True), ("draining", True), ("drained", True), ("future", True),
        ("powered_down", True), ("powering_down", True), ("idle%", True), ("down*", True),
        ("idle", False), ("mixed", False), ("allocated+", False), ("idle*", False),
        ("unknown", False), ("maint", False), ("reserved", False), ("fail", False),
        ("downtown", False),
    ],
)  # fmt: skip
def test_unknown_means_not_excused(state: str, absent: bool) -> None:
    nodes = read(f"n1|n1|n1|{state}|t|root(0)|why\n")
    assert [node.absent for node in nodes] == ([absent] if "+" not in state else [])


@pytest.mark.parametrize(
    "line",
    [
        "",
        "n1",
        "n1|n1|n1|down|t|u",
        "n1|n1|n1|down; reboot|t|u|r",
        "n1|n1|n1|\x1b[1m|t|u|r",
        "||||||",
    ],
)
def test_lines_of_another_form_are_no_nodes(line: str) -> None:
    assert read(line) == []


def test_an_answer_is_bounded_and_made_printable() -> None:
    (node,) = read(f"n1|n1|n1|down|t|u(1)|{'x' * 10_000}\n")
    assert len(node.reason) == slurm.MOST_TEXT
    (node,) = read("n1|n1|n1|down|t|u|\x1b[31mred\x07\n")
    assert node.reason == "red"
    assert len(read("".join(f"n{i}|h{i}|a{i}|down|t|u|r\n" for i in range(60_000)))) <= 50_000


def test_names_match_to_the_letter_and_only_one_node() -> None:
    nodes = read(
        "gpu1|gpu1|10.0.0.1|down|t|u|r\ngpu12|gpu12|10.0.0.12|idle|t|u|r\n"
        "a|shared|10.0.0.7|down|t|u|r\nb|shared|10.0.0.8|idle|t|u|r\n"
    )
    hosts = {
        "gpu1": ("gpu1", "gpu1"),
        "gpu": ("gpu", "gpu"),
        "gpu1.example": ("gpu1.example", "gpu1.example"),
        "by-address": ("by-address", "10.0.0.12"),
        "shared": ("shared", "shared"),
        "": ("", ""),
    }
    found = by_host(nodes, hosts)
    assert {name: node.names[0] for name, node in found.items()} == {
        "gpu1": "gpu1", "by-address": "gpu12",
    }  # fmt: skip


def fleet(*names: str) -> Fleet:
    hosts = {name: Host(name, (), NodeSpec(), {}) for name in names}
    return Fleet("lab", None, hosts)


def sinfo(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch, status: int = 0) -> None:
    """This machine has an sinfo that gives this answer, and refuses --future as 22.05 does."""
    (folder / "answer").write_text(text)
    script = (
        "#!/bin/sh\n"
        'for word; do [ "$word" != --future ] || exit 1; done\n'
        f"cat {folder}/answer; exit {status}\n"
    )
    (folder / "sinfo").write_text(script)
    (folder / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_silent_host_is_excused_and_one_that_answers_gets_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sinfo(tmp_path, ANSWER, monkeypatch)
    asked = [healthy("gpu1"), healthy("gpu2"), unreachable("gpu3"), unreachable("gpu5")]
    found = {one.host: one for one in slurm.excuse(fleet("gpu1", "gpu2", "gpu3", "gpu5"), asked)}
    assert {name: one.excused.partition(",")[0] for name, one in found.items()} == {
        "gpu1": "", "gpu2": "", "gpu5": "",
        "gpu3": "Slurm (asked on this machine) has it DOWN*: Not responding",
    }  # fmt: skip
    assert found["gpu2"].notes[-1].startswith("Slurm (asked on this machine) has it DRAINED*: bad")
    assert found["gpu1"] == asked[0]
    assert found["gpu5"] == asked[3]


@pytest.mark.parametrize(("text", "status"), [("", 0), ("rubbish", 0), (ANSWER, 1)])
def test_without_a_usable_answer_nobody_is_excused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, status: int
) -> None:
    sinfo(tmp_path, text, monkeypatch, status)
    asked = [unreachable("gpu3")]
    assert slurm.excuse(fleet("gpu3"), asked) == asked


def test_no_host_is_asked_where_all_answer_or_nobody_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def there(hosts: Any) -> tuple[None, str]:
        asked.extend(host.name for host in hosts)
        return None, ""

    monkeypatch.setattr(slurm, "_here", lambda: None)
    monkeypatch.setattr(slurm, "_there", there)
    slurm.excuse(fleet("gpu1"), [healthy("gpu1")])
    slurm.excuse(fleet("gpu3"), [unreachable("gpu3")])
    assert asked == []
    names = [f"gpu{number}" for number in range(1, 9)]
    slurm.excuse(fleet(*names), [unreachable("gpu1"), *map(healthy, names[1:])])
    assert asked == ["gpu2", "gpu3", "gpu4"]


def test_reports_say_expected_absent(tmp_path: Path) -> None:
    gone = unreachable("gpu3").model_copy(update={"excused": "Slurm has it DOWN*: bad disk"})
    view = read_view(look(recorded(tmp_path, [healthy("gpu1"), gone], exit=0)))
    stream = io.StringIO()
    show(view, stream)
    text = stream.getvalue()
    assert "lab: 2 hosts: 1 unreachable, 1 pass, 1 of them expected absent" in text
    assert "expected absent: Slurm has it DOWN*: bad disk" in text
    assert "host.reachable" not in text
    plain = document(view)
    assert plain["summary"]["expected_absent"] == 1
    assert plain["hosts"]["gpu3"]["expected_absent"] == "Slurm has it DOWN*: bad disk"
    assert plain["hosts"]["gpu1"]["expected_absent"] is None
    assert plain["findings"] == []
    assert headline(view) == "all 1 host passed that should be there; 1 expected absent"


# ---- on the host: what scontrol says of a node

LINE = (
    "NodeName=n1 Arch=x86_64 CPUAlloc=0 CPUEfctv=62 CPUTot=64 Gres=gpu:h100:8(S:0-1),nic:2 "
    "NodeAddr=10.0.0.1 NodeHostName=host1 OS=Linux 6.1 State=IDLE+DRAIN Partitions=gpu,all "
    "Reason=bad State=IDLE Gres=gpu:1 [root@2026-11-22T19:00:00]"
)


def test_a_node_is_found_by_its_host_and_read_field_by_field() -> None:
    other = "NodeName=host1 NodeHostName=other State=IDLE"
    assert slurm_job.mine(f"{other}\n{LINE}\n", "host1.example") == LINE
    assert slurm_job.field(LINE, "State") == "IDLE+DRAIN"
    assert slurm_job.gpus_of(LINE) == 8
    assert slurm_job.reason_of(LINE).endswith("[root@2026-11-22T19:00:00]")
    with pytest.raises(slurm_job.Ended) as told:
        slurm_job.mine(LINE, "n2")
    assert told.value.state == "absent"


@pytest.mark.parametrize(
    ("gres", "count"),
    [("(null)", 0), ("gpu:2", 2), ("gpu:a:4,gpu:b:4", 8), ("gpu:h100:8(S:0-1)", 8), ("mps:100", 0)],
)
def test_gpus_that_slurm_hands_out(gres: str, count: int) -> None:
    assert slurm_job.gpus_of(f"NodeName=n1 Gres={gres} State=IDLE") == count


def test_a_job_is_the_whole_node_at_once_and_bounded() -> None:
    words = slurm_job.options(LINE, {"seconds": 115, "free_s": 20, "name": "gpufleet-1"})
    assert {
        "--nodelist=n1", "--gres=gpu:8", "--cpus-per-task=62", "--exclusive", "--mem=0",
        "--immediate=20", "--time=3", "--job-name=gpufleet-1",
    } <= set(words)  # fmt: skip
    every = "PartitionName=all Default=YES Nodes=n1\nPartitionName=gpu Default=NO\n"
    assert slurm_job.partitions_of(LINE, every) == []
    assert slurm_job.partitions_of(LINE, "PartitionName=x Default=YES") == ["--partition=gpu,all"]


def test_a_job_is_no_step_of_the_job_that_it_is_started_in() -> None:
    given = {"SLURM_JOB_ID": "1", "SRUN_X": "1", "SLURM_CONF": "/c", "PATH": "/bin"}
    assert slurm_job.clean(given) == {"SLURM_CONF": "/c", "PATH": "/bin"}


def test_one_line_comes_out_of_a_job_or_none() -> None:
    line = "GPUFLEET " + json.dumps({"rc": 0})
    assert slurm_job.line_of(f"prolog says hello\n{line}\n") == {"rc": 0}
    for text in ("", f"{line}\n{line}\n", "GPUFLEET {", "GPUFLEET []"):
        assert slurm_job.line_of(text) is None


def test_what_is_asked_again_is_asked_in_the_same_way(tmp_path: Path) -> None:
    view = read_view(look(recorded(tmp_path, [healthy("gpu1")])))
    words = ["lab.py", "--level", "standard", "--as", "alice", "--via", "slurm", "--env", "/e"]
    view = replace(view, run=view.run.model_copy(update={"command": tuple(words)}))
    assert view.way == ("--as", "alice", "--via", "slurm", "--env", "/e")
    asked = "gpufleet verify lab.py --as alice --via slurm --env /e --limit gpu1 --level standard"
    for check in ("train.loss", "env.works"):
        found = again(check, ["gpu1"], "lab.py", "standard", view.way)
        assert found == f"{asked} --check {check}"
    assert again("env.works", ["gpu1"], "lab.py", "quick") == (
        "gpufleet verify lab.py --limit gpu1 --check env.works"
    )
