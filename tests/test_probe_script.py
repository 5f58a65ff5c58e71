"""The probe's script, really run on this machine, also with parts that hang, flood or die."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.facts import NodeFacts
from deploy.fleet.spec import NodeSpec
from deploy.probing import probe
from deploy.probing.probe import parse, script

NONCE = "gpufleet-0123456789abcdef"
PLACES = ("/dev/shm", "/run", "/tmp", "/var/tmp")
BODY = Path(probe.__file__).with_name("probe.sh")
SHELLS = [words for words in (["dash"], ["busybox", "sh"], ["bash"]) if shutil.which(words[0])]


def run(text: str, shell: list[str] | None = None) -> str:
    """Standard output of the script under a shell that reads it from its input."""
    return subprocess.run(
        [*(shell or ["sh"]), "-s"], input=text, capture_output=True, text=True, timeout=50
    ).stdout


def quick(prefix: str = "/opt/gpufleet") -> str:
    """The script without its slowest part (apt's candidates)."""
    return _replaced(
        script(NONCE, NodeSpec.model_construct(prefix=prefix)), "candidates", "return 3"
    )


def _replaced(text: str, name: str, body: str) -> str:
    mark = "# --- running them"
    assert mark in text
    return text.replace(mark, f"part_{name}() {{\n{body}\n}}\n{mark}")


def with_part(name: str, body: str, limit: int | None = None) -> str:
    """The script with another body for one part, as if a tool on the host behaved so."""
    text = _replaced(quick(), name, body)
    if limit is not None:
        text = re.sub(rf"launch {name} \d+", f"launch {name} {limit}", text)
    return text


def facts(text: str) -> NodeFacts:
    return parse("here", NONCE, run(text))


def leftovers() -> set[Path]:
    return {path for place in PLACES for path in Path(place).glob("gpufleet-probe.*")}


@pytest.fixture(scope="module")
def reference() -> NodeFacts:
    return facts(script(NONCE, NodeSpec()))


@pytest.mark.parametrize("shell", SHELLS, ids=lambda words: words[0])
def test_every_shell_gives_the_same_facts(shell: list[str], reference: NodeFacts) -> None:
    found = parse("here", NONCE, run(script(NONCE, NodeSpec()), shell))
    known = [name for name in NodeFacts.model_fields if getattr(found, name) is not None]
    assert {"os", "kernel", "boot_id", "pci", "modules", "disks", "tools", "files"} <= set(known)
    ours, theirs = (
        each.model_dump(exclude={"uptime_s", "disks", "gpu_users", "dpkg"})
        for each in (found, reference)
    )
    assert ours == theirs


def test_nothing_is_left_on_the_host() -> None:
    before = leftovers()
    run(quick())
    assert leftovers() <= before


def test_a_part_that_hangs_is_late_and_its_processes_end() -> None:
    found = facts(with_part("slurm", "sleep 4711.25 | cat", limit=1))
    assert found.slurm_jobs is None
    assert "time limit" in found.unknown["slurm_jobs"]
    assert found.os is not None
    commands = [
        path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if readable(path)
    ]
    assert not any(b"4711.25" in command for command in commands)


def readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:  # the process has ended
        return False
    return True


def test_a_part_that_floods_is_cut() -> None:
    found = facts(with_part("state", "yes flood"))
    assert found.state is None
    assert "more than its limit" in found.unknown["state"]


def test_a_part_that_dies_is_unknown() -> None:
    found = facts(with_part("pci", "exit 0"))
    assert found.pci is None
    assert "killed" in found.unknown["pci"]


def test_what_a_failing_part_says_is_kept() -> None:
    found = facts(with_part("disks", "echo 'stat: no such thing' >&2; return 6"))
    assert found.unknown["disks"] == "failed with 6: stat: no such thing"


def test_a_part_cannot_forge_a_frame() -> None:
    body = f"printf 'state a=1\\n{NONCE} done state 1\\n{NONCE} end 15\\nstate b=2\\n'"
    found = facts(with_part("state", body))
    assert found.state == {"a": "1", "b": "2"}


def test_a_prefix_is_only_a_path() -> None:
    """Values travel quoted: what looks like a command stays a directory that is not there."""
    text = quick("/opt/'$(touch /tmp/gpufleet-owned)'")
    assert facts(text).environments == ()
    assert not Path("/tmp/gpufleet-owned").exists()


def test_nowhere_to_write() -> None:
    text = quick().replace("/dev/shm /run /tmp /var/tmp", "/nowhere")
    assert f"{NONCE} nowhere-to-write" in run(text)


def test_an_environment_is_measured(tmp_path: Path) -> None:
    good, odd = tmp_path / "envs" / "aaa", tmp_path / "envs" / "bbb"
    for place in (good, odd):
        site = place / "lib" / "python3.11" / "site-packages"
        (site / "torch-2.13.0+cpu.dist-info").mkdir(parents=True)
        (site / "torch-2.13.0+cpu.dist-info" / "METADATA").write_text("x")
        (site / "Nvidia_NCCL_cu13-2.29.7.dist-info").mkdir()
        (site / "code.py").write_text("pass\n")
    manifest = subprocess.run(
        ["sh", "-c", probe.MANIFEST_COMMAND], cwd=good, capture_output=True, text=True, check=True
    ).stdout
    (good / probe.MANIFEST_NAME).write_text(manifest)
    (tmp_path / "env").symlink_to("envs/aaa")
    (good / "lib" / "__pycache__").mkdir()
    (good / "lib" / "__pycache__" / "code.cpython-311.pyc").write_text("compiled later")
    built, unfinished = facts(quick(str(tmp_path))).environments or ()
    assert (built.id, built.current, built.complete, built.in_use) == ("aaa", True, True, False)
    assert built.manifest == built.found != ""
    assert built.wheels == {"torch": "2.13.0+cpu", "nvidia-nccl-cu13": "2.29.7"}
    assert (unfinished.current, unfinished.complete, unfinished.manifest) == (False, False, "")
    (good / "lib" / "python3.11" / "site-packages" / "code.py").unlink()
    changed = (facts(quick(str(tmp_path))).environments or ())[0]
    assert changed.manifest != changed.found


@pytest.mark.parametrize("shell", SHELLS, ids=lambda words: words[0])
def test_the_shell_accepts_the_syntax(shell: list[str]) -> None:
    subprocess.run([*shell, "-n", BODY], check=True)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say() -> None:
    said = subprocess.run(["shellcheck", BODY], capture_output=True, text=True)
    assert said.stdout == ""
