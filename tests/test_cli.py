"""The command itself: what it refuses, how it says so, and what it prints."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.cli import main
from deploy.facts import NodeFacts


def gpufleet(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *words],
        capture_output=True,
        text=True,
        timeout=60,
        **options,  # type: ignore[call-overload]
    )


Captured = pytest.CaptureFixture[str]


def test_without_words_it_names_its_commands(capsys: Captured) -> None:
    assert main([]) == 0
    assert "one read-only probe each" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["--help"], 0, "facts"),
        (["facts", "--help"], 0, "Nothing is written on any host"),
        (["bogus"], 2, "invalid choice: 'bogus'"),
        (["facts", "--bogus"], 2, "unrecognized arguments: --bogus"),
    ],
)
def test_help_and_unknown_words(words: list[str], status: int, text: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    said = capsys.readouterr()
    assert caught.value.code == status
    assert text in said.out + said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["facts"], "wanted an inventory file or -w NODESET"),
        (["facts", "x.py", "-w", "a"], "wanted an inventory file or -w NODESET"),
        (["facts", "nowhere.py"], "nowhere.py: is no inventory file"),
        (["facts", "-w", "a;b"], "is no host name"),
        (["facts", "-w", "a", "--limit", "b"], "--limit: b: matches none"),
        (
            ["facts", "-w", "a", "--ssh-config", "/nowhere"],
            "ssh_config_file: found '/nowhere': there is no such file here",
        ),
        (["facts", "-w", "a", "-l", "x y"], "ssh_user: found 'x y': wanted a login name"),
        (["facts", "x.py", "-l", "me"], "goes with -w only"),
        (["facts", "-w", "a", "--json", "/nowhere/x"], "--json: /nowhere/x: cannot be written"),
    ],
    ids=range(9),
)
def test_wrong_input_is_said_once_and_nothing_runs(
    words: list[str], message: str, capsys: Captured
) -> None:
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("gpufleet: 1 fault, nothing was run\n")
    assert message in said.err


@pytest.mark.long
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


@pytest.mark.long
def test_json_on_stdout_is_nothing_but_json() -> None:
    said = gpufleet("facts", "-w", "@local", "--json")
    document = json.loads(said.stdout)
    assert set(document) == {"schema", "facts", "failed"}
    hidden = document["facts"]["@local"]["unknown"]
    assert said.returncode == (4 if hidden else 0)


@pytest.mark.long
def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m deploy.cli facts -w @local | head -n 1"
    said = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert said.stdout == "@local\n"
    assert said.stderr == ""


@pytest.mark.long
def test_a_terminal_gets_colour() -> None:
    command = f"TERM=xterm-256color {sys.executable} -m deploy.cli facts -w @local"
    said = subprocess.run(
        ["script", "-qec", command, "/dev/null"],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert "\x1b[1;36m@local" in said.stdout


@pytest.mark.parametrize("command", ["plan", "lock", "adopt", "apply --yes", "remove --yes"])
def test_an_empty_limit_never_means_the_whole_fleet(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inventory = tmp_path / "lab.py"
    inventory.write_text("gpus = ['gpu1.invalid']\n")
    assert main([*command.split(), str(inventory), "--limit", ""]) == 2
    assert "--limit: is empty" in capsys.readouterr().err
