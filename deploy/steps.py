"""Vocabulary of plans: `Command`, `Step`. Layers make them, apply runs them."""

from deploy.fleet.model import Model
from deploy.fleet.spec import NodeSpec
from deploy.stack import Stack


class Wanted(Model):
    """What one host shall be: the wish (paths, network, settings) and its locked answer."""

    host: str
    spec: NodeSpec
    stack: Stack


class Command(Model):
    """One shell command that runs as root on a host, idempotent by itself."""

    shell: str
    """POSIX sh, run as `sh -c`; every value in it is quoted by the layer that made it."""
    stdin: str = ""
    timeout_s: int = 600
    log: str = ""
    """A file on the host whose tail explains a failure (DKMS's make.log); may hold a glob."""


class Step(Model):
    """One thing that is not as wanted, and what makes it so."""

    layer: str
    title: str
    """True afterwards: "driver packages are at 580.178.04"."""
    why: str
    """What was found, against what was wanted."""
    commands: tuple[Command, ...]
    disruptive: bool = False
    """Touches what a running job uses: not on a busy host."""
    download: int = 0
    """Bytes that will be fetched, as far as the lock knows."""


class Reboot(Model):
    """The host must boot again before it conforms."""

    why: str
    expected: bool
    """True when a plan foresees it; apply decides afresh from a new probe."""
