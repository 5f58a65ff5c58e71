"""Folding and printing of facts."""

import io

from deploy.catalog import load
from deploy.fact_rows import fact_rows
from deploy.facts import AutoUpgrades, Dpkg, NodeFacts
from deploy.fold import Row, folded
from deploy.probing.probe import parse
from deploy.show_facts import show_facts
from tests.capture import NONCE, PLACE


def facts(name: str) -> NodeFacts:
    return parse(name, NONCE, (PLACE / f"{name}.txt").read_text())


def shown(facts: dict[str, NodeFacts], failed: dict[str, str]) -> str:
    stream = io.StringIO()
    show_facts(facts, failed, 1.25, stream)
    return stream.getvalue()


ROWS = tuple(Row(str(number), "same") for number in range(6))


def test_equal_hosts_are_one_block() -> None:
    blocks = folded({"n3": ROWS, "n1": ROWS, "n2": ROWS})
    assert [(block.nodes, block.rows) for block in blocks] == [("n[1-3]", ROWS)]


def test_a_host_that_differs_a_little_shows_the_difference() -> None:
    other = (*ROWS[:2], Row("2", "other"), *ROWS[3:5])
    blocks = folded({"n1": ROWS, "n2": other, "n3": ROWS})
    assert [(b.nodes, b.like) for b in blocks] == [("n[1,3]", ""), ("n2", "n[1,3]")]
    assert blocks[1].rows == (Row("2", "other"),)
    assert blocks[1].gone == ("5",)


def test_a_host_that_differs_much_is_shown_whole() -> None:
    other = tuple(Row(str(number), "other") for number in range(6))
    assert [block.like for block in folded({"n1": ROWS, "n2": ROWS, "n3": other})] == ["", ""]


def test_no_hosts_no_blocks() -> None:
    assert folded({}) == []


def test_hosts_of_one_kind_fold_though_they_are_two_machines() -> None:
    first = facts("bare-hgx-h100")
    second = first.model_copy(update={"host": "other", "boot_id": "x", "uptime_s": 5})
    text = shown({"gpu001": first, "gpu002": second}, {})
    assert text.startswith("gpu[001-002]  2 hosts\n")
    assert "8x H100 SXM5 80GB, 4x NVSwitch" in text
    assert text.endswith("2 of 2 hosts looked at in 1 kind; 1.2 s\n")


def test_what_matters_is_marked_and_summed_up() -> None:
    text = shown(
        {"v1": facts("foreign-busy-v100"), "p1": facts("plain-user")},
        {"gone": "gone: no SSH server there"},
    )
    assert "! in use      job 4711 of trainer (RUNNING), pid " in text
    assert "! managed     by runfile: " in text
    assert "! kernel      " in text
    assert "! unknown     " in text
    assert "gone\n  no SSH server there\n" in text
    assert (
        "2 of 3 hosts looked at in 2 kinds; 1 busy (v1); 1 managed by others (v1); "
        "1 partly unknown (p1); 1 not looked at (gone)"
    ) in text


def test_plain_output_has_no_control_characters_and_no_long_lines() -> None:
    text = shown({"h": facts("hostile")}, {"x": "x: " + "long words " * 60})
    assert text.isascii()
    assert text.replace("\n", "").isprintable()
    assert max(map(len, text.splitlines())) <= 100


def test_every_row_of_a_capture_has_text() -> None:
    for path in PLACE.glob("*.txt"):
        for row in fact_rows(facts(path.stem), load()):
            assert row.label
            assert row.text


def test_what_only_dnf_has_is_shown() -> None:
    found = facts("el9-provisioned").model_copy(
        update={"auto_upgrades": AutoUpgrades(enabled=True)}
    )
    rows = {row.label: row for row in fact_rows(found, load())}
    assert rows["streams"].text == "nvidia-driver:595-open"
    assert rows["locked"].text == "libnccl-0:2.29.7-1+cuda13.0.*"
    assert rows["locked"].notable
    assert rows["locked by us"].text == "38 packages"
    assert rows["upgrades"].text == "automatic, but not what is locked"
    torn = found.model_copy(
        update={"dpkg": Dpkg(broken=("libnccl",), interrupted=False, lock_holder="dnf (pid 7)")}
    )
    row = next(row for row in fact_rows(torn, load()) if row.label == "rpm")
    assert row.text == "installed in two versions: libnccl; locked by dnf (pid 7)"
