"""One node: its supervisor (a process in namespaces of its own), start, stop, commands inside.

The supervisor is process 1 of a pid namespace and owns a private mount namespace with the overlay.
However it ends, the kernel takes the whole node and its mounts away with it; nothing is left to
be cleaned up but an empty cgroup. A node is on exactly while its supervisor holds the node's lock.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.sim import machine, network, paths
from tests.sim.fleet import Fleet, Node, load
from tests.sim.proc import SimError, holder, kill, run, say, take

_REBOOT = 133  # systemd-nspawn(1), exit status: the container asked for a reboot
_CGROUPS = Path("/sys/fs/cgroup")


def start(fleet: Fleet, node: Node, layers: Sequence[Path]) -> None:
    """Start a node's supervisor, which outlives this process; `layers` top first, without upper."""
    for name in ("upper", "work", "merged"):
        (node.directory / name).mkdir(parents=True, exist_ok=True)
    with (node.directory / "console.log").open("ab") as log:
        subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "--pid", "--fork",
             "--kill-child=KILL", "--mount-proc", sys.executable, "-m", "tests.sim.node",
             fleet.name, node.name, *map(str, layers)],
            cwd=paths.REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip


def stop(fleet: Fleet, node: Node) -> None:
    """Cut a node's power: returns when no process and no mount of it is left."""
    if (pid := holder(node.lock)) is not None:
        kill(pid)
    for root in _cgroup_roots():
        top = root / "gpufleet-sim" / fleet.name / node.name
        for directory, _, _ in os.walk(top, topdown=False):
            Path(directory).rmdir()
        for parent in (top.parent, top.parent.parent):
            if parent.is_dir() and not any(entry.is_dir() for entry in parent.iterdir()):
                with suppress(OSError):  # another node may be starting
                    parent.rmdir()


def wipe(node: Node) -> None:
    """Forget everything that happened in a stopped node."""
    for name in ("upper", "work"):
        if (node.directory / name).exists():
            shutil.rmtree(node.directory / name)


def leader(node: Node, deadline_s: float = 20) -> int | None:
    """Return the id, on this machine, of the node's systemd; None while the node is off.

    A node that is on and has none is between two boots: that is waited for.
    """
    end = time.monotonic() + deadline_s
    while (pid := holder(node.lock)) is not None:
        nspawn = next((c for c in _children(pid) if _command(c) == "systemd-nspawn"), None)
        for child in _children(nspawn) if nspawn is not None else []:
            if _command(child) == "systemd":
                return child
        if time.monotonic() > end:
            raise SimError(f"{node.name} does not boot; see {node.directory / 'console.log'}")
        time.sleep(0.05)
    return None


def enter(node: Node) -> list[str]:
    """Return the command prefix that runs a command as root inside a node, without its sshd."""
    pid = leader(node)
    if pid is None:
        raise SimError(f"{node.name} is off; `python -m tests.sim up` starts it")
    return [
        "nsenter", f"--target={pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup",
        f"--root=/proc/{pid}/root", f"--wd=/proc/{pid}/root", "env", "-i", "HOME=/root",
        "LANG=C.UTF-8", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ]  # fmt: skip


def inside(node: Node, script: str, check: bool = True, timeout: float = 60) -> str:
    """Run a shell script as root inside a node and return its standard output."""
    return run(*enter(node), "sh", "-s", text=script, check=check, timeout=timeout).stdout


def booted(node: Node, deadline_s: float = 60) -> None:
    """Wait until a node that is on has booted; services may still be starting, or hanging."""
    end = time.monotonic() + deadline_s
    ask = ("sh", "-c", "systemctl is-system-running; systemctl is-active basic.target")
    while True:
        state = run(*enter(node), *ask, check=False, timeout=30).stdout.split()
        if state and state[0] in ("running", "degraded", "starting") and state[-1] == "active":
            return
        if time.monotonic() > end:
            raise SimError(f"{node.name} did not boot within {deadline_s} s: {' '.join(state)}")
        time.sleep(0.1)


def _children(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _cgroup_roots() -> list[Path]:
    """Return the hierarchies in which systemd keeps its units: v1, hybrid or v2."""
    roots = [_CGROUPS / "systemd", _CGROUPS / "unified", _CGROUPS]
    return [root for root in roots if (root / "cgroup.procs").exists()]


def supervise(fleet: Fleet, node: Node, layers: Sequence[str]) -> int:
    """Run a node until it is powered off; start it again when it reboots itself."""
    if take(node.lock) is None:
        return 0  # another supervisor has it
    for root in _cgroup_roots():  # nspawn makes its groups below ours, so nodes do not share any
        own = root / "gpufleet-sim" / fleet.name / node.name
        own.mkdir(parents=True, exist_ok=True)
        (own / "cgroup.procs").write_text("0")
    where = node.directory
    run("mount", "-t", "tmpfs", "tmpfs", "/run")  # nspawn's own notes: private to this node, too
    options = f"lowerdir={':'.join(layers)},upperdir={where}/upper,workdir={where}/work"
    run("mount", "-t", "overlay", "gpufleet-sim", "-o", options, f"{where}/merged")
    command = [
        "systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit",
        f"--directory={where}/merged", f"--machine={network.machine(fleet.index, node.name)}",
        f"--hostname={node.name}", f"--network-bridge={network.bridge(fleet.index)}",
        "--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=pipe",
        *(f"--bind-ro={folder}" for folder in machine.folders()),
    ]  # fmt: skip
    while True:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        while (ended := os.wait())[0] != child.pid:
            pass  # as process 1 of its namespace the supervisor also inherits orphans
        status = os.waitstatus_to_exitcode(ended[1])
        say(f"{node.name}: systemd-nspawn ended with {status}")
        if status != _REBOOT:
            return status


def main(argv: Sequence[str]) -> int:
    """Supervise one node: FLEET NODE LAYER..."""
    fleet = load(argv[0])
    if fleet is None:
        raise SimError(f"no fleet {argv[0]}")
    return supervise(fleet, fleet.node(argv[1]), argv[2:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
