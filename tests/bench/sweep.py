"""What a converged re-run costs the controller: `python -m tests.bench.sweep [--hosts 200]`.

One sshd on this machine answers on 127.x.y.z addresses, so that every "host" is a real login and
a real command. They share this machine's cores: wall time says little, so controller CPU (user
and system, of the client process alone) is what is compared. Each way runs as a process of its own,
once with one host and once with all; the difference is what a host costs beyond start-up. Prints
JSON on stdout, progress on stderr.

- gpufleet: connect, probe, parse, and the plan of a provisioned 8-GPU host from its recorded
  answer and its full stack (this machine's own answer is smaller than a GPU host's).
- paramiko: bare connect and `true`, in threads, nothing read but the exit status.
- pyinfra: its own command with ten file operations that have nothing to change.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.sshd import Sshd

WANTED_MS = 25.0
"""Controller CPU per host beyond start-up that a converged re-run may cost."""
OPERATIONS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hosts", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=8, help="logins in flight; both cores share")
    parser.add_argument("--child", choices=list(CHILDREN), help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        CHILDREN[arguments.child](arguments.place, arguments.hosts, arguments.at_once)
        return
    print(json.dumps(measure(arguments.hosts, arguments.at_once), indent=2))


def measure(hosts: int, at_once: int) -> dict[str, object]:
    """Run every way with one host and with all of them."""
    with tempfile.TemporaryDirectory(prefix="gpufleet-bench.") as name:
        place = Path(name)
        with Sshd(place / "sshd", address="0.0.0.0") as server:
            server.know(server.public_key("host_key"), *addresses(hosts))
            (place / "data.json").write_text(json.dumps(server.data))
            results: dict[str, dict[str, float]] = {}
            for way in CHILDREN:
                start_up, _ = cost(way, place, 1, at_once)
                total, seconds = cost(way, place, hosts, at_once)
                results[way] = {
                    "controller_cpu_ms_per_host": round(1000 * (total - start_up) / (hosts - 1), 2),
                    "start_up_cpu_s": round(start_up, 2),
                    "wall_s": round(seconds, 1),
                }
                print(f"{way}: {results[way]}", file=sys.stderr)
    ours = results["gpufleet"]["controller_cpu_ms_per_host"]
    return {
        "hosts": hosts,
        "ways": results,
        "wanted_ms_per_host": WANTED_MS,
        "reached": ours <= WANTED_MS,
        "machine": machine(),
        "note": "hosts share the controller's cores: compare CPU, not wall time",
    }


def machine() -> dict[str, object]:
    return {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 1),
    }


def addresses(count: int) -> list[str]:
    return [f"127.{1 + number // 60000}.{number // 250 % 240}.{1 + number % 250}"
            for number in range(count)]  # fmt: skip


def cost(
    way: str, place: Path, hosts: int, at_once: int, module: str = "tests.bench.sweep"
) -> tuple[float, float]:
    """CPU seconds of the client process, and wall seconds."""
    words = [sys.executable, "-m", module, "--child", way, "--place", str(place)]
    words += ["--hosts", str(hosts), "--at-once", str(at_once)]
    started = time.monotonic()
    said = place / f"{way}.log"
    with said.open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{way} with {hosts} hosts failed: {said.read_text()[-2000:]}")
    return usage.ru_utime + usage.ru_stime, time.monotonic() - started


def login(place: Path) -> dict[str, object]:
    data: dict[str, object] = json.loads((place / "data.json").read_text())
    del data["ssh_hostname"]
    return data


def gpufleet(place: Path, hosts: int, at_once: int) -> None:
    from gevent import monkey

    monkey.patch_all()
    from deploy.cli import _quiet_libraries
    from deploy.fleet.inventory import named_hosts
    from deploy.fleet.spec import NodeSpec
    from deploy.plan import plan_host
    from deploy.probing.probe import parse
    from deploy.steps import Wanted
    from deploy.survey import survey
    from tests.capture import NONCE, PLACE
    from tests.conformed import conformed
    from tests.factory import solved

    _quiet_libraries()
    fleet = named_hosts(",".join(addresses(hosts)), login(place))
    found = survey(fleet, at_once=at_once)
    if found.failed:
        raise SystemExit(f"{len(found.failed)} hosts failed: {next(iter(found.failed.values()))}")
    answer = (PLACE / "provisioned-hgx-h100.txt").read_text()
    wanted = Wanted(host="h1", spec=NodeSpec(), stack=solved("hgx-h100"))
    provisioned = conformed(wanted, "hgx-h100")
    for name in fleet.hosts:
        parse(name, NONCE, answer)
        if plan_host(wanted, provisioned).steps:
            raise SystemExit("the plan of a conforming host is not empty")


def paramiko(place: Path, hosts: int, at_once: int) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from paramiko import Ed25519Key, SSHClient

    data = login(place)
    key = Ed25519Key.from_private_key_file(str(data["ssh_key"]))

    def visit(address: str) -> int:
        client = SSHClient()
        client.load_host_keys(str(place / "one" / address))
        client.connect(
            address,
            port=int(str(data["ssh_port"])),
            username=str(data["ssh_user"]),
            pkey=key,
            look_for_keys=False,
            allow_agent=False,
        )
        _, out, _ = client.exec_command("true")
        status = out.channel.recv_exit_status()
        client.close()
        return int(status)

    (place / "one").mkdir(exist_ok=True)
    for line in Path(str(data["ssh_known_hosts_file"])).read_text().splitlines():
        (place / "one" / line.partition("]")[0].lstrip("[")).write_text(line + "\n")
    with ThreadPoolExecutor(at_once) as pool:
        if any(pool.map(visit, addresses(hosts))):
            raise SystemExit("a host failed")


def pyinfra(place: Path, hosts: int, at_once: int) -> None:
    lab = place / f"lab{hosts}.py"
    lab.write_text(f"hosts = ({addresses(hosts)!r}, {login(place)!r})\n")
    target = place / "files"
    target.mkdir(exist_ok=True)
    lines = ["from pyinfra.operations import files"]
    for number in range(OPERATIONS):
        path = target / str(number)
        path.touch(mode=0o644)
        lines.append(f"files.file(path={str(path)!r}, present=True, mode='644')")
    deploy = place / "deploy.py"
    deploy.write_text("\n".join(lines) + "\n")
    program = Path(sys.executable).with_name("pyinfra")
    os.execv(program, [str(program), "-y", "--parallel", str(at_once), str(lab), str(deploy)])


CHILDREN: dict[str, Callable[[Path, int, int], None]] = {
    "gpufleet": gpufleet,
    "paramiko": paramiko,
    "pyinfra": pyinfra,
}

if __name__ == "__main__":
    main()
