"""What a verify run looks like on a terminal."""

import io
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.verified import (
    document,
    drifted,
    finding,
    gpu,
    healthy,
    hung,
    lost_gpu,
    part,
    recorded,
    remap_pending,
    unreachable,
    verified,
)
from verify.report.groups import cases, groups, places
from verify.report.read import look, read_view
from verify.report.terminal import show
from verify.results import HostVerification


def shown(tmp_path: Path, hosts: Iterable[HostVerification], exit: int = 1) -> str:
    stream = io.StringIO()
    show(read_view(look(recorded(tmp_path, hosts, exit=exit))), stream)
    return stream.getvalue()


def test_a_healthy_fleet_is_a_few_lines(tmp_path: Path) -> None:
    text = shown(tmp_path, [healthy(f"gpu{number:03d}") for number in range(1, 101)], exit=0)
    lines = text.splitlines()
    assert lines[0].startswith("lab: 100 hosts: 100 pass (quick, 13 checks, ")
    assert lines[2] == "pass  gpu[001-100] (100)    8x NVIDIA H100 80GB HBM3"
    assert lines[-2] == "exit 0: nothing failed, and all that was asked was looked at"
    assert lines[-1] == "next: gpufleet verify lab.py --level standard"
    assert len(lines) == 9


def test_the_broken_gpu_is_named_with_all_that_one_needs(tmp_path: Path) -> None:
    text = shown(tmp_path, [healthy("gpu1"), remap_pending("gpu2", 3)])
    broken = gpu(3, "gpu2")
    for wanted in (
        "lab: 2 hosts: 1 fail, 1 pass",
        "fail  gpu2  reset  gpu.remap-pending\n",
        "1. fail: gpu2: GPU 3: gpu.remap-pending\n",
        "rows waiting to be remapped: found yes, expected no\n",
        broken["uuid"],
        f"serial {broken['serial']}",
        broken["slot"],
        "| nvmlDeviceGetRemappedRows: corrected 0, uncorrected 1, pending 1, failed 0\n",
        "do:    take no new jobs on it, then reset the GPU\n",
        "again: gpufleet verify lab.py --limit gpu2 --check gpu.remap-pending\n",
        "not asked: 3 checks: asked at level standard\n",
        f"record: {tmp_path}",
        "exit 1: something failed or hung\n",
    ):
        assert wanted in text


def test_consequences_stand_behind_their_cause(tmp_path: Path) -> None:
    [cause] = cases(lost_gpu("gpu3", 5))
    assert cause.check == "gpu.answers"
    assert cause.silenced == ("gpu.ecc", "gpu.remap-pending", "gpu.xid", "gpu.pcie-width")
    text = " ".join(shown(tmp_path, [lost_gpu("gpu3", 5)]).split())
    assert "4 checks could not look at GPU 5 because of it: gpu.ecc" in text
    assert text.count("GPU 5") == 2


def test_a_consequence_goes_to_the_cause_at_the_same_gpu() -> None:
    def lost(index: int) -> dict[str, object]:
        return finding(part(gpu(index)), what="answer", action="reboot")

    def blind(index: int) -> dict[str, object]:
        return finding(part(gpu(index)), verdict="not-run", because="gpu.answers")

    found = {"gpu.answers": [lost(2), lost(4)], "gpu.ecc": [blind(4)], "gpu.xid": [blind(4)]}
    two, four = cases(verified(document("gpu1", found), "fail"))
    assert (two.silenced, four.silenced) == ((), ("gpu.ecc", "gpu.xid"))


def test_a_chain_of_consequences_ends_at_its_cause() -> None:
    found = {
        "nvml.answers": [finding(verdict="hung")],
        "gpu.count": [finding(verdict="not-run", because="nvml.answers")],
        "gpu.ecc": [finding(verdict="not-run", because="gpu.count")],
        "gpu.xid": [finding(verdict="not-run", because="gpu.xid")],  # of itself: no cause at all
    }
    found_cases = cases(verified(document("gpu1", found), "hung"))
    assert sorted((one.check, one.silenced) for one in found_cases) == [
        ("gpu.xid", ()),
        ("nvml.answers", ("gpu.count", "gpu.ecc")),
    ]


def test_a_consequence_without_its_cause_is_not_lost() -> None:
    alone = {"gpu.ecc": [finding(verdict="not-run", because="gpu.answers")]}
    [case] = cases(verified(document("gpu1", alone), "not-run"))
    assert (case.check, case.verdict) == ("gpu.ecc", "not-run")


def test_what_is_wrong_because_of_a_cause_is_no_blindness(tmp_path: Path) -> None:
    def off(index: int, **fields: object) -> dict[str, object]:
        return finding(part(gpu(index)), verdict="degraded", **fields)

    found = {
        "gpu.persistence": [
            finding({"kind": "service", "name": "nvidia-persistenced"}, verdict="degraded"),
            *(off(index, because="gpu.persistence") for index in range(8)),
        ],
        "gpu.odd": [off(0, because="gpu.persistence", evidence=["a line of the log"])],
    }
    host = verified(document("gpu1", found), "degraded")
    [cause] = cases(host)
    assert (cause.silenced, cause.echoes) == ((), ("gpu.odd",))
    text = shown(tmp_path, [host], exit=0)
    assert "seen because of it, too: gpu.odd\n" in text
    assert "| a line of the log\n" in text
    assert "could not look" not in text


def test_what_to_do_first_comes_first() -> None:
    fleet = [healthy(), drifted(), unreachable(), remap_pending(), hung(), lost_gpu()]
    assert [(one.check, one.action) for one in groups(fleet)] == [
        ("gpu.answers", "reboot"),
        ("nvml.answers", "reboot"),
        ("gpu.remap-pending", "reset"),
        ("stack.packages", "keep"),
        ("host.reachable", "keep"),
    ]


@pytest.mark.long
def test_the_same_finding_on_many_hosts_is_one(tmp_path: Path) -> None:
    fleet = [drifted(f"gpu{number:03d}") for number in range(1, 901)]
    text = shown(tmp_path, [*fleet, healthy("gpu901")])
    assert "fail  gpu[001-900] (900)  apply  stack.packages\n" in text
    assert "1. fail: gpu[001-900]: package libnccl2 (900 hosts): stack.packages\n" in text
    assert "mend:  gpufleet apply lab.py --limit 'gpu[001-900]'\n" in text
    assert len(text.splitlines()) < 24


@pytest.mark.long
def test_a_large_fleet_with_every_kind_of_fault_is_a_screen(tmp_path: Path) -> None:
    makers = (remap_pending, lost_gpu, drifted, hung, unreachable, healthy)
    fleet = [makers[number % 6](f"n{number:04d}") for number in range(1000)]
    for number in range(40):  # and many checks that nobody else fails
        id = f"gpu.odd-{number}"
        odd = document(f"odd{number}", {id: [finding(what=f"odd thing {number}")]})
        fleet.append(verified(odd, "fail"))
    lines = shown(tmp_path, fleet).splitlines()
    assert len(lines) < 90
    commands = ("   again:", "   mend:", "record:", "page:")
    assert [line for line in lines if len(line) > 80 and not line.startswith(commands)] == []
    assert any("more kinds of hosts" in line for line in lines)
    assert any(line.startswith("pass ") for line in lines)
    assert lines[-1] == "exit 1: something failed or hung"


def test_places_fold_hosts_with_the_same_parts() -> None:
    at = [cases(remap_pending(host, 3))[0] for host in ("gpu1", "gpu2")]
    assert places([*at, *cases(remap_pending("gpu9", 0))]) == ["gpu[1-2]: GPU 3", "gpu9: GPU 0"]


def test_a_host_without_a_result_says_why(tmp_path: Path) -> None:
    mute = verified(None, "not-run", host="gpu7", message="gpu7: no Python >= 3.10 was found")
    text = shown(tmp_path, [mute, unreachable("gpu6")], exit=4)
    assert "unreachable  gpu6  look\n" in text
    assert "login: found no answer on port 22 within 10 s" in text
    assert "mend:  ssh gpu6\n" in text
    assert "result of the host: found no Python >= 3.10 was found\n" in text
    assert "again: gpufleet verify lab.py --limit gpu7\n" in text
    assert "exit 4: nothing failed, but something asked could not be looked at\n" in text


def test_simulated_hardware_is_said(tmp_path: Path) -> None:
    text = shown(tmp_path, [healthy("gpu1", simulated=True)], exit=0)
    assert "SIMULATED HARDWARE: this says nothing about real GPUs\n" in text
    text = shown(tmp_path, [healthy("gpu1", simulated=True), healthy("gpu2")], exit=0)
    assert "SIMULATED HARDWARE on gpu1: " in text


def test_nothing_of_a_host_is_obeyed_by_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b[2J\x1b]0;x\x07[bold red]pass\u202e\nfail: \x9b1m"
    bad = finding(part(gpu(0) | {"name": evil}), what=evil, found=evil, evidence=[evil])
    odd = verified(document("gpu1", {"gpu.ecc": [bad]}), "fail", message=evil)
    text = shown(tmp_path, [odd])
    assert not [character for character in text if character != "\n" and ord(character) < 32]
    assert "\u202e" not in text
    assert "[bold red]passfail: " in text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_is_for_terminals_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    view = read_view(look(recorded(tmp_path, [remap_pending()])))
    plain, coloured, uncoloured = io.StringIO(), Terminal(), Terminal()
    show(view, plain)
    show(view, coloured)
    monkeypatch.setenv("NO_COLOR", "1")
    show(view, uncoloured)
    assert "\x1b" not in plain.getvalue()
    assert "\x1b[1;31m1. fail: gpu2: GPU 3: gpu.remap-pending" in coloured.getvalue()
    assert "\x1b[31m" not in uncoloured.getvalue()


@pytest.mark.parametrize("long", ["x" * 1000, "word " * 200])
def test_long_texts_are_wrapped(tmp_path: Path, long: str) -> None:
    text = shown(tmp_path, [verified(document("g", {"gpu.ecc": [finding(found=long)]}), "fail")])
    assert max(map(len, text.splitlines())) <= max(80, len(str(tmp_path)) + 40)
