"""Where our files lie on a host, and whether root writes them: `places` of a spec.

With root they are where administrators look for them. Without (`privileged = False`) everything is
below the prefix, a directory of the user's, and no command asks for root.
"""

from deploy.fleet.model import Model
from deploy.fleet.spec import NodeSpec


class Places(Model):
    """Paths on one host."""

    root: bool
    """Commands that change the host run as root."""
    expected: str
    """What verification expects of the host (deploy/layers/expected.py)."""
    record: str
    """Folder of our own record: state, stacks, journal (deploy/record.py and
    deploy/engine/supervise.py)."""
    lock: str
    """Held by the controller at work (deploy/fleet/hostlock.py)."""
    work: str
    """Folder of the running step: step (lock), what, limit, stdin, log; its owner's only."""

    @property
    def state(self) -> str:
        """The flat record that the probe reads."""
        return f"{self.record}/state"

    @property
    def journal(self) -> str:
        """Who changed what when, one JSON object a line; the host's own memory."""
        return f"{self.record}/journal.jsonl"


SYSTEM = Places(
    root=True,
    expected="/etc/gpufleet/expected.json",
    record="/var/lib/gpufleet",
    lock="/run/gpufleet.lock",
    work="/run/gpufleet",
)
"""Of a host that we are root on. Lock and step are below /run: neither survives a reboot."""


def places(spec: NodeSpec) -> Places:
    """The paths of a host with this spec."""
    if spec.privileged:
        return SYSTEM
    # The locks are flock's and end with their holders, a reboot included; the files may stay.
    return Places(
        root=False,
        expected=f"{spec.prefix}/expected.json",
        record=f"{spec.prefix}/record",
        lock=f"{spec.prefix}/host.lock",
        work=f"{spec.prefix}/running",
    )
