"""A small Slurm on simulated nodes: Debian's own slurmctld, slurmd and munge (22.05).

Processes of jobs are followed by their process group and nothing confines them: proctrack/cgroup
and task/cgroup need control groups that a node in a container has not to give (tried: slurmd ends
with "unable to create slurm freezer xcgroup"). GPUs are counted and handed out by number. So what
is shown here is how jobs are started, waited for, cancelled and limited by slurmd's own limits, and
no control group of devices or memory.
"""

from __future__ import annotations

import json
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.fleet.live import LiveFleet

PACKAGES = "slurmctld slurmd slurm-client munge"
INSTALL = f"""
export DEBIAN_FRONTEND=noninteractive
apt-get -q update && apt-get -q -y --no-install-recommends install {PACKAGES}
systemctl stop slurmd slurmctld munge
"""
GPU = "/dev/sim-gpu"
"""Files that stand in for the GPUs' own: Slurm wants one each, and counts them."""
KEY = b64encode(b"of the simulated fleet alone" * 40).decode()


@dataclass(frozen=True)
class Slurm:
    """Slurm on some nodes of a fleet, the first its controller."""

    fleet: LiveFleet
    nodes: dict[str, int]
    """Name -> GPUs that Slurm knows of it."""

    @property
    def head(self) -> str:
        return next(iter(self.nodes))

    def install(self) -> None:
        """Packages, the shared key and the configuration, everywhere at once."""
        with ThreadPoolExecutor() as pool:
            for done in pool.map(lambda node: self.fleet.root(node, INSTALL), self.nodes):
                done.ok()
        self.configure()

    def configure(self, **changes: str) -> None:
        """Write slurm.conf with these lines changed or added, and start everything anew."""
        lines = {
            "ClusterName": "sim",
            "SlurmctldHost": f"{self.head}({self.fleet.nodes[self.head]})",
            "SlurmUser": "slurm",
            "StateSaveLocation": "/var/lib/slurm/slurmctld",
            "SlurmdSpoolDir": "/var/lib/slurm/slurmd",
            "ProctrackType": "proctrack/pgid",
            "TaskPlugin": "task/none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core",
            "GresTypes": "gpu",
            "ReturnToService": "2",
            "SlurmdTimeout": "10",
            **changes,
        }
        text = "".join(f"{name}={value}\n" for name, value in lines.items())
        for name, gpus in self.nodes.items():
            gres = f" Gres=gpu:{gpus}" if gpus else ""
            text += f"NodeName={name} NodeAddr={self.fleet.nodes[name]} CPUs=2{gres}\n"
        text += "PartitionName=all Nodes=ALL Default=YES MaxTime=60\n"
        gres = "".join(
            f"NodeName={node} Name=gpu File={GPU}[0-{count - 1}]\n"
            for node, count in self.nodes.items()
            if count
        )
        files = {"/etc/slurm/slurm.conf": text, "/etc/slurm/gres.conf": gres}
        script = "".join(f"echo {b64encode(t.encode()).decode()} | base64 -d >{f}\n"
                         for f, t in files.items())  # fmt: skip
        script += f"echo {KEY} | base64 -d >/etc/munge/munge.key\n"
        script += "chown munge: /etc/munge/munge.key; chmod 400 /etc/munge/munge.key\n"
        script += "mkdir -p /var/lib/slurm/slurmctld; chown slurm: /var/lib/slurm/slurmctld\n"
        script += f"touch {' '.join(f'{GPU}{number}' for number in range(8))}\n"
        for node in self.nodes:
            mine = "slurmctld slurmd" if node == self.head else "slurmd"
            again = f"systemctl stop {mine}; rm -rf /var/lib/slurm/slurmctld/*\n"
            self.fleet.root(node, f"{again}{script}systemctl restart munge {mine}").ok()
        self.wait_for(dict.fromkeys(self.nodes, "IDLE"))

    def ask(self, *words: str) -> str:
        """One of Slurm's commands on the controller's node, as root."""
        return self.fleet.root(self.head, " ".join(words)).ok()

    def states(self) -> dict[str, str]:
        """Node -> state."""
        lines = self.ask("sinfo -h -N -o '%N %T'").splitlines()
        return {name: state.upper() for name, state in (line.split() for line in lines)}

    def wait_for(self, wanted: dict[str, str], deadline_s: float = 30) -> None:
        """Until these nodes are in states that begin so."""
        end = time.monotonic() + deadline_s
        found: dict[str, str] = {}
        while time.monotonic() < end:
            found = self.states()
            if all(found.get(name, "").startswith(one) for name, one in wanted.items()):
                return
            time.sleep(0.3)
        raise AssertionError(f"wanted {json.dumps(wanted)}, found {json.dumps(found)}")

    def jobs(self) -> list[str]:
        """Names of all jobs that are there."""
        return self.ask("squeue -h -o %j").split()
