"""What a quick verify costs the controller: `python -m tests.bench.verify [--hosts 200]`.

The loopback "hosts" of tests/bench/sweep.py, asked by the whole command `gpufleet verify`: the
inventory, a login and one command per host, launch.sh that checks every file of the whole bundle
and picks a Python there, an answer of an 8-GPU host of full size, parsed and judged, the run
directory, the report and the HTML page. Only what runs in the place of the checks is not them: it
prints a document made ready, for a host's own time is not the controller's. Prints JSON on stdout,
progress on stderr; bare paramiko stands beside it.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.sweep import CHILDREN, WANTED_MS, addresses, cost, login, machine
from tests.sshd import Sshd

VERIFY = "gpufleet verify"
BESIDE = ("paramiko",)
"""Of the ways of tests/bench/sweep.py."""
GPUS = 8
STAND_IN = """\
import hashlib, json, sys
request = json.load(sys.stdin)
document = json.load(open("verify/data/answer.json"))
document.update({key: request[key] for key in ("nonce", "host", "level")})
document["bundle"] = hashlib.sha256(open("MANIFEST", "rb").read()).hexdigest()
print("GPUFLEET " + json.dumps(document))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hosts", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=8, help="logins in flight; both cores share")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        verify(arguments.place, arguments.hosts, arguments.at_once)
        return
    print(json.dumps(measure(arguments.hosts, arguments.at_once), indent=2))


def measure(hosts: int, at_once: int) -> dict[str, Any]:
    """Every way with one host and with all of them; the difference is what a host costs."""
    with tempfile.TemporaryDirectory(prefix="gpufleet-bench.") as name:
        place = Path(name)
        with Sshd(place / "sshd", address="0.0.0.0") as server:
            server.know(server.public_key("host_key"), *addresses(hosts))
            (place / "data.json").write_text(json.dumps(server.data))
            cost(VERIFY, place, 1, at_once, __spec__.name)  # pushes the bundle
            ways = {}
            for way in (VERIFY, *BESIDE):
                module = "tests.bench.sweep" if way in CHILDREN else __spec__.name
                start_up, _ = cost(way, place, 1, at_once, module)
                total, seconds = cost(way, place, hosts, at_once, module)
                ways[way] = {
                    "controller_cpu_ms_per_host": round(1000 * (total - start_up) / (hosts - 1), 2),
                    "start_up_cpu_s": round(start_up, 2),
                    "wall_s": round(seconds, 1),
                }
                print(f"{way}: {ways[way]}", file=sys.stderr)
    ours = ways[VERIFY]["controller_cpu_ms_per_host"]
    return {
        "hosts": hosts,
        "ways": ways,
        "ratio": {way: round(ours / ways[way]["controller_cpu_ms_per_host"], 2) for way in BESIDE},
        "wanted_ms_per_host": WANTED_MS,
        "reached": ours <= WANTED_MS,
        "machine": machine(),
        "note": "hosts share the controller's cores: compare CPU, not wall time",
    }


def verify(place: Path, hosts: int, at_once: int) -> None:
    """The command itself, over a bundle whose onhost.py only prints an answer."""
    from deploy.cli import main as gpufleet

    lab = place / "lab.py"
    data = {**login(place), "prefix": str(place / "opt"), "privileged": False}
    lab.write_text(f"hosts = ({addresses(hosts)!r}, {data!r})\n")
    os.chdir(place)

    # Patched before anything else is imported, as the command itself does it.
    from gevent import monkey

    monkey.patch_all()
    import verify.bundle as module

    files = {
        **module.bundle().files,
        "verify/onhost.py": STAND_IN.encode(),
        "verify/data/answer.json": json.dumps(answer()).encode(),
    }
    made = module.Bundle(dict(sorted(files.items())))
    import verify.commands.verify as command
    from verify import runner

    command.with_site = lambda files: made
    # All of them share these cores: a host of its own would not take so long.
    runner.ASK_S["quick"] = 600.0
    runner.LOGINS = at_once
    before = set(Path("runs").glob("*"))
    with contextlib.redirect_stdout(sys.stderr):
        code = gpufleet(["verify", str(lab)])
    (run,) = set(Path("runs").glob("*")) - before
    statuses = set(json.loads((run / "run.json").read_text())["hosts"].values())
    if code or statuses != {"pass"}:
        raise SystemExit(f"exit {code}, {statuses}: the hosts did not answer as they should")


def answer() -> dict[str, Any]:
    """What a healthy 8-GPU host says to every quick check."""
    from verify.report.catalogue import catalogue

    checks = [one for one in catalogue().values() if one.where == "host"]
    gpus = [
        {
            "index": index,
            "name": "NVIDIA H100 80GB HBM3",
            "uuid": f"GPU-00000000-0000-0000-0000-{index:012}",
            "serial": f"165{index:010}",
            "slot": f"0000:{0x1A + 16 * index:02x}:00.0",
        }
        for index in range(GPUS)
    ]
    host = {"kind": "host", "name": "", "index": None, "uuid": "", "serial": "", "slot": ""}
    return {
        "schema": 1,
        "hostname": "gpu1.example",
        "boot_id": "00000000-0000-0000-0000-000000000000",
        "started": "2026-01-01T00:00:00Z",
        "seconds": 2.0,
        "python": "3.11.2 /opt/gpufleet/env/bin/python",
        "user": "root",
        "simulated": False,
        "expected_from": "host",
        "stack": "0123456789ab",
        "gpus": gpus,
        "busy": [],
        "checks": [
            {
                "id": one.id,
                "claim": one.claim,
                "level": one.level,
                "verdict": "pass",
                "seconds": 0.01,
                "looked_at": GPUS,
                "findings": [],
            }
            for one in checks
            if one.level == "quick"
        ],
        "not_asked": [
            {"id": one.id, "reason": "level quick does not ask it"}
            for one in checks
            if one.level != "quick"
        ],
        "measurements": [
            {
                "name": "temperature",
                "unit": "C",
                "value": 31.0,
                "component": {**host, "kind": "gpu", **gpu},
                "conditions": {"of": "NVML"},
            }
            for gpu in gpus
        ],
    }


if __name__ == "__main__":
    main()
