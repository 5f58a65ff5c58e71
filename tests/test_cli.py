"""The command itself: what it refuses, how it says so, and what it prints."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.facts import NodeFacts


def gpufleet(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *words],
        capture_output=True,
        text=True,
        timeout=60,
        **options,  # type: ignore[call-overload]
    )


def test_help_names_the_commands() -> None:
    for words in ([], ["--help"]):
        said = gpufleet(*words)
        assert said.returncode == 0
        assert "facts" in said.stdout
        assert "one read-only probe each" in said.stdout


def test_help_of_a_command_is_its_docstring() -> None:
    said = gpufleet("facts", "--help")
    assert said.returncode == 0
    assert "Nothing is written on any host" in said.stdout


@pytest.mark.parametrize("words", [["bogus"], ["facts", "--bogus"]])
def test_unknown_words(words: list[str]) -> None:
    said = gpufleet(*words)
    assert said.returncode == 2
    assert "bogus" in said.stderr
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["facts"], "wanted an inventory file or -w NODESET"),
        (["facts", "x.py", "-w", "a"], "wanted an inventory file or -w NODESET"),
        (["facts", "nowhere.py"], "nowhere.py: is no inventory file"),
        (["facts", "-w", "a;b"], "is no host name"),
        (["facts", "-w", "a", "--limit", "b"], "--limit: b: matches none"),
        (["facts", "-w", "a", "--ssh-config", "/nowhere"], "--ssh-config: /nowhere: is no file"),
        (["facts", "-w", "a", "-l", "x y"], "ssh_user: found 'x y': wanted a login name"),
        (["facts", "x.py", "-l", "me"], "goes with -w only"),
        (["facts", "-w", "a", "--json", "/nowhere/x"], "--json: /nowhere/x: cannot be written"),
    ],
    ids=range(9),
)
def test_wrong_input_is_said_once_and_nothing_runs(words: list[str], message: str) -> None:
    said = gpufleet(*words)
    assert said.returncode == 2
    assert said.stdout == ""
    assert said.stderr.startswith("gpufleet: 1 fault, nothing was run\n")
    assert message in said.stderr
    assert "Traceback" not in said.stderr


def test_facts_of_this_machine(tmp_path: Path) -> None:
    place = tmp_path / "facts.json"
    said = gpufleet("facts", "-w", "@local,nowhere.invalid", "--json", str(place))
    assert said.returncode == 4
    assert said.stdout.startswith("@local\n  system      ")
    assert "the name does not resolve" in said.stdout
    assert "1 of 2 hosts looked at" in said.stdout
    assert "\x1b" not in said.stdout
    document = json.loads(place.read_text())
    assert list(document["failed"]) == ["nowhere.invalid"]
    found = NodeFacts.model_validate_json(json.dumps(document["facts"]["@local"]))
    assert found.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_json_on_stdout_is_nothing_but_json() -> None:
    said = gpufleet("facts", "-w", "@local", "--json")
    assert said.returncode == 0
    assert set(json.loads(said.stdout)) == {"facts", "failed"}


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m deploy.cli facts -w @local | head -n 1"
    said = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60
    )
    assert said.stdout == "@local\n"
    assert said.stderr == ""


def test_a_terminal_gets_colour() -> None:
    command = f"TERM=xterm-256color {sys.executable} -m deploy.cli facts -w @local"
    said = subprocess.run(
        ["script", "-qec", command, "/dev/null"],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert said.returncode == 0
    assert "\x1b[1;36m@local" in said.stdout
