"""The documents say what the code does."""

import re
from pathlib import Path

from deploy.fleet.spec import SPEC_KEYS

ROOT = Path(__file__).parent.parent
ROOMS = (ROOT / "deploy", ROOT / "verify")
README = (ROOT / "README.md").read_text()


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.S | re.M)
    assert found, f"README.md has no section {title}"
    return found[1]


def first_column(text: str) -> list[str]:
    rows = [row for row in text.splitlines() if row.startswith("| `")]
    return re.findall(r"`([^`]+)`", " ".join(row.split("|")[1] for row in rows))


def test_every_inventory_key_is_described_and_no_other() -> None:
    assert sorted(first_column(section("Inventory keys"))) == sorted(SPEC_KEYS)


def test_every_command_is_described_and_no_other() -> None:
    named = {text.split()[1] for text in first_column(section("Commands")) if "gpufleet" in text}
    places = [path for room in ROOMS for path in room.glob("commands/[a-z]*.py")]
    commands = {path.stem for path in places if "\ndef run(" in path.read_text()}
    assert named == commands


def sources() -> str:
    files = [path for room in ROOMS for kind in ("*.py", "*.sh") for path in room.rglob(kind)]
    return "\n".join(path.read_text() for path in files)


def test_every_entry_of_the_troubleshooting_page_begins_with_a_message_of_the_code() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text()
    code = sources()
    entries = re.findall(r"^### (.+)$", page, re.M)
    assert entries
    assert [entry for entry in entries if entry not in code] == []


def test_every_file_that_a_layer_writes_is_listed() -> None:
    page = (ROOT / "docs/files.md").read_text()
    written = set(
        re.findall(r"[\"'](/(?:etc|usr|var|run|opt)/[\w./-]*gpufleet[\w./-]*)", sources())
    )
    assert {"/etc/gpufleet/expected.json", "/var/lib/gpufleet/verified.json"} <= written
    folders = tuple(re.findall(r"`(/[\w./-]+/)`", page))
    listed = {path for path in written if path in page or path.startswith((*folders, "/run/"))}
    assert written - listed == set()


def test_every_local_file_named_in_the_readme_exists() -> None:
    for name in re.findall(
        r"`((?:docs|inventories|deploy|verify|tests)/[A-Za-z0-9_./-]+)`", README
    ):
        if name != "inventories/lab.py" and name != "inventories/lab.lock":
            assert (ROOT / name).exists(), name


def test_the_page_of_checks_is_what_the_checks_say() -> None:
    from verify.report.checks_page import COMMAND, PAGE, page

    assert PAGE.read_text() == page(), f"run {COMMAND}"
