"""Models of what was found: the result document of a host, and what was made of a fleet.

A host's document is hostile data: every field is typed and bounded, unknown fields are refused,
and nothing in it is ever evaluated or used as a template.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from deploy.fleet.model import Model
from deploy.fleet.runs import printable

SCHEMA = 1
"""Of the request, the result document and the run's host files."""

Verdict = Literal["pass", "degraded", "not-run", "hung", "fail"]
HostVerdict = Literal["not-asked", "pass", "degraded", "not-run", "unreachable", "hung", "fail"]
"""From best to worst. Of a host to which nothing that was asked applies there is no verdict."""
Action = Literal["keep", "drain", "reset", "reboot", "service"]
Level = Literal["quick", "standard", "deep", "workload", "multi-node"]
Baseline = Literal["claim", "lock", "host", "file", "history", "physics", "neighbours"]

# Text of a host is made printable as it is read, so that nothing further on can be obeyed by a
# terminal.
Text = Annotated[str, StringConstraints(max_length=1000), AfterValidator(printable)]
Name = Annotated[str, StringConstraints(max_length=200), AfterValidator(printable)]
Count = Annotated[int, Field(ge=0, lt=2**31)]
Seconds = Annotated[float, Field(ge=0)]
Id = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(?:[.-][a-z0-9]+)*$", max_length=80)]


class Found(BaseModel):
    """Base of what comes from a host: JSON types as they are, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Part(Found):
    """The component of a finding (verify.checks.Component)."""

    kind: Name = "host"
    name: Name = ""
    index: Count | None = None
    uuid: Name = ""
    serial: Name = ""
    slot: Name = ""


class Waived(Found):
    """A waiver of the inventory that covers a finding (deploy.fleet.spec.Waiver)."""

    owner: Text
    reason: Text
    until: Name
    """Last day, as 2026-12-31."""


class Finding(Found):
    """Something that does not hold, or could not be looked at (verify.checks.Observation)."""

    component: Part
    verdict: Literal["degraded", "not-run", "hung", "fail"]
    what: Text
    found: Text
    expected: Text
    action: Action
    baseline: Baseline
    evidence: Annotated[tuple[Text, ...], Field(max_length=12)] = ()
    because: Annotated[str, StringConstraints(max_length=80)] = ""
    """Id of the check whose finding explains this one; "" for a cause."""
    others: Annotated[tuple[Text, ...], Field(max_length=8)] = ()
    """What the other baselines say of the same figure, a line each: their disagreement is shown."""
    waived: Waived | None = None
    """Set by the controller from the inventory, never by a host: it is shown and does not count."""


class CheckResult(Found):
    """What one check that was asked came to."""

    id: Id
    claim: Text
    level: Level
    verdict: Verdict
    seconds: Seconds
    looked_at: Count
    """How many observations were made; a pass with none is refused."""
    findings: Annotated[tuple[Finding, ...], Field(max_length=1000)] = ()


class NotAsked(Found):
    """A check that does not apply to this host at this level."""

    id: Id
    reason: Text


class Gpu(Found):
    """One GPU of the host as NVML names it."""

    index: Count
    name: Name
    uuid: Name
    serial: Name
    slot: Name
    board: dict[Name, Text] = Field(default_factory=dict, max_length=40)
    """What it is made of and runs: vbios, gsp, inforom, board_part, chassis_serial ..."""
    physics: dict[Name, float] = Field(default_factory=dict, max_length=40)
    """What physics bounds it by: sm_clock_max_mhz, memory_clock_max_mhz, memory_bus_bits, cores,
    pcie_gen, pcie_width, nvlinks, power_limit_w; only what could be read."""


class Print(Found):
    """A fingerprint of a computation: equal parts with equal software must share it bit by bit."""

    key: Name
    """Product, stack and payload version, joined: what makes two hosts comparable."""
    name: Name
    value: Name
    component: Part


class Measurement(Found):
    """One figure, for plots and history: tokens/s of rank 3, seconds of a check."""

    name: Name
    unit: Name
    value: float
    component: Part
    conditions: Annotated[dict[Name, Text], Field(max_length=20)] = {}
    """What it depends on: workload, backend, world, device."""


class Past(Found):
    """The figures of this host's last good run, as the host kept them."""

    time: Name
    machine: Name
    """What tells this machine from another with its disk: the GPUs' serials, hashed."""
    stack: Name
    software: Annotated[dict[Name, Text], Field(max_length=60)]
    """Name -> version of what figures depend on: driver, torch, NCCL, kernel, VBIOS."""
    measurements: Annotated[tuple[Measurement, ...], Field(max_length=5000)] = ()


class HostResult(Found):
    """The one document that a host answers with."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    nonce: Name
    """The request's own, so that no other answer is taken for this one."""
    host: Name
    """The inventory's name, as in the request."""
    hostname: Name
    boot_id: Name
    started: Name
    seconds: Seconds
    level: Level
    bundle: Name
    """Hash of the bundle that ran."""
    python: Text
    """Version and path of the interpreter that ran the checks."""
    user: Name
    simulated: bool
    """The host's hardware is simulated (tests/sim); every report says so."""
    expected_from: Literal["lock", "host", "file", "none"]
    stack: Name
    """Id of the expected stack, "" when there is no expected state."""
    gpus: Annotated[tuple[Gpu, ...], Field(max_length=256)]
    busy: Annotated[tuple[Text, ...], Field(max_length=200)]
    """Who uses the GPUs: "job 4711 of trainer", "python (pid 123) of alice on GPU 0"."""
    checks: Annotated[tuple[CheckResult, ...], Field(max_length=1000)]
    not_asked: Annotated[tuple[NotAsked, ...], Field(max_length=1000)]
    measurements: Annotated[tuple[Measurement, ...], Field(max_length=5000)] = ()
    information: Annotated[tuple[Text, ...], Field(max_length=50)] = ()
    """Worth reading and no finding: kernel messages that nobody knows."""
    document: Annotated[str, StringConstraints(max_length=500_000)] = ""
    """What a payload said, for the controller to judge over all hosts: JSON, as hostile as all."""
    prints: Annotated[tuple[Print, ...], Field(max_length=200)] = ()
    software: Annotated[dict[Name, Text], Field(max_length=60)] = {}
    """As in `Past`, of this run."""
    past: Past | None = None
    past_fault: Text = ""
    """Why the host's kept figures cannot be used; "" when they can or there are none."""


class Request(Model):
    """What a host is asked, as JSON on the standard input of verify/onhost.py."""

    schema_: Annotated[Literal[1], Field(serialization_alias="schema")] = 1
    nonce: str
    host: str
    level: Level
    checks: tuple[str, ...]
    """Ids of the checks asked for; () for all of the level."""
    expected: dict[str, object] | None
    """Expected state as the lock has it (deploy.lock.expected_state); None: the host's own."""
    prefix: str
    """Where environments and bundles live, /opt/gpufleet."""
    train_as: str
    """User that training runs as when the checks run as root; "" leaves the choice to the host."""
    env: str = ""
    """An environment to prove in place of the expected one, a folder with bin/python; "" none."""
    via: Literal["", "slurm"] = ""
    """What training is started through."""
    minutes: int = 0
    """How long a soak lasts, at level deep."""
    rendezvous: dict[str, str | int | bool] | None = None
    """Where and with how many this host trains across hosts; None: it takes no part."""
    thresholds: dict[str, float] = Field(default_factory=dict)
    """Of the inventory, in place of those of verify/thresholds.py."""
    accept_hardware: bool
    """Take the GPUs found as the host's own from now on, also when they differ from the last."""


class HostVerification(Model):
    """One host of a verify run, also one that never answered: the run's hosts/<name>.json."""

    host: str
    verdict: HostVerdict
    action: Action
    message: str
    """Why there is no result, or the first finding in one line; "" when all is well."""
    notes: tuple[str, ...] = ()
    """What else is worth knowing: the bundle was pushed, the checks did not run as root."""
    excused: str = ""
    """Why a host that does not answer counts for nothing: its scheduler has it out of service."""
    result: HostResult | None
