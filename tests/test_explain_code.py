"""gpufleet explain of a code of the kernel log, and the tables that it reads."""

from __future__ import annotations

import re

import pytest

from deploy.cli import main
from verify import xids
from verify.commands.explain_code import code_of


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("xid-79", ("xid", 79)),
        ("79", ("xid", 79)),
        ("XID 79", ("xid", 79)),
        ("Xid:79", ("xid", 79)),
        ("sxid-20034", ("sxid", 20034)),
        ("20034", ("sxid", 20034)),
        ("xid-20034", ("xid", 20034)),
        ("gpu79", None),
        ("xid-", None),
        ("79.1", None),
        ("1234567", None),
    ],
)
def test_names_of_codes(name: str, code: tuple[str, int] | None) -> None:
    assert code_of(name) == code


@pytest.mark.parametrize("name", ["xid-79", "79"])
def test_an_xid_is_explained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", name]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Xid 79\n  the GPU has fallen off the bus\n")
    assert "class   hardware: a fault of the machine" in text
    assert "driver  branch 590" in text
    assert "reboot" in text
    assert "gpufleet verify INVENTORY --check gpu.xid" in text


def test_xid_154_lists_what_it_may_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "xid-154"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "0x1 a reset of the GPU; 0x2 a reboot of the host" in text


def test_an_sxid_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "sxid-20034"]) == 0
    text = capsys.readouterr().out
    assert "SXid 20034" in text
    assert "fatal: traffic through the switch stops" in text


@pytest.mark.parametrize(
    ("name", "near"), [("xid-999", "170, 171, 172"), ("99999", "24005, 24006, 24007")]
)
def test_an_unknown_code_is_no_reason_for_calm(
    name: str, near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", name]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"nearest that are known: {near}" in text
    assert "no reason for calm" in text


def test_every_row_of_both_tables_is_whole() -> None:
    for table, classes in (
        (xids.table(), xids.CLASSES),
        (xids.switch_table(), xids.SWITCH_CLASSES),
    ):
        for row in table.values():
            assert set(row) == {"id", "class", "meaning", "action", "source", "driver"}
            assert row["class"] in classes
            assert row["action"] in ("keep", "drain", "reset", "reboot", "service")
            assert all(row[key] for key in ("meaning", "source", "driver"))
            assert re.fullmatch(r"\d{3}|not named|before Ampere", row["driver"])
            assert row["class"] not in ("application", "information") or row["action"] == "keep"
    assert all(10_000 <= code < 30_000 for code in xids.switch_table())
    assert max(xids.table()) < 10_000


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)", 1),
        ("154, GPU recovery action changed from 0x0 (None) to 0x2 (OS Reboot)", 2),
        ("154, GPU recovery action changed from 0x2 (Node Reboot Required) to 0x0 (None)", 0),
        ("154, GPU recovery action changed", None),
        ("154, pid='1', name=x", None),
    ],
)
def test_what_xid_154_says(text: str, wish: int | None) -> None:
    line = f"NVRM: Xid (PCI:0008:01:00): {text}"
    assert xids.recovery_of(line) == wish
    row = xids.judged(154, line)
    assert row["class"] == ("hardware" if wish else "information")
    assert row["action"] == {1: "reset", 2: "reboot"}.get(wish or 0, "keep")


@pytest.mark.parametrize(
    ("word", "kind", "action"),
    [("Fatal  ", "hardware", "reset"), ("Non-fatal", "hardware", "keep")],
)
def test_an_nvlink_event_tells_its_severity(word: str, kind: str, action: str) -> None:
    line = f"NVRM: Xid (PCI:0009:01:00): 149, NETIR_LINK_EVT  {word} XC0 i0 Link 01 (0x021425c6)"
    row = xids.judged(149, line)
    assert (row["class"], row["action"]) == (kind, action)
