"""What a user asks for on a host: `NodeSpec`, strict and frozen.

Every value ends in a file or a shell command on a host, so every value has a grammar here and is
refused on the controller when it does not match. An empty spec is a full wish: keep what works,
install what is missing.
"""

import math
import re
from datetime import date
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from deploy.fleet.errors import Fault

NONE = "none"
"""The wish that a part is not managed on this host: nothing installed, nothing removed."""

NEEDS_ROOT = (
    *("driver", "driver_modules", "cuda", "cudnn", "nccl", "dcgm", "container_toolkit"),
    *("library_path", "vendor_repository", "vendor_key_fingerprint"),
    *("mig", "power_limit", "ecc", "module_options", "memlock"),
)
"""Wishes that only root can fulfil."""
ROOTS_OWN = tuple(
    f"/{name}/"
    for name in (
        *("bin", "boot", "dev", "etc", "lib", "lib64", "opt", "proc", "run", "sbin", "sys"),
        *("usr", "var"),
    )
)
"""Where ordinary users have no lasting directory of their own."""


def _url(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9:/._~%+\-\[\]@]+", value):
        raise ValueError("only letters, digits and :/._~%+-[] belong in an address")
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https", "file"} or (
        parts.scheme != "file" and not parts.netloc
    ):
        raise ValueError("wanted an http://, https:// or file:// address")
    if "@" in value:
        raise ValueError(
            "an address must not carry a user name or password (it would end in files and logs); "
            "put credentials into netrc or the package client's own configuration on the host"
        )
    return value.rstrip("/")


def _place(value: str) -> str:
    """An absolute path or an address: where wheels may be found."""
    return _path(value) if value.startswith("/") else _url(value)


def _path(value: str) -> str:
    if not re.fullmatch(r"(/\.?[A-Za-z0-9_][A-Za-z0-9._+\-]*)+", value):
        raise ValueError("wanted an absolute path of letters, digits, '.', '_', '+' and '-'")
    return value


def _prefix(value: str) -> str:
    if value.count("/") < 2:
        raise ValueError("wanted a directory of its own below a top-level one, as /opt/gpufleet")
    return _path(value)


def _requirement(value: str) -> str:
    try:
        requirement = Requirement(value)
    except InvalidRequirement as error:
        raise ValueError(f"not a requirement that pip would understand: {error}") from None
    if requirement.url:
        raise ValueError("a requirement by address cannot be locked; name a version instead")
    if not re.fullmatch(r"[A-Za-z0-9._\-\[\],<>=!~ ;'\"()+*]+", value):
        raise ValueError("holds characters that no requirement needs")
    return value


def _day(value: str) -> str:
    try:
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", value):
            raise ValueError
        date.fromisoformat(value)
    except ValueError:
        raise ValueError("wanted a day, as 2026-12-31") from None
    return value


def _pairs(values: Any) -> Any:
    """A table as sorted pairs: a spec is hashed."""
    return tuple(sorted(values.items())) if isinstance(values, dict) else values


def _finite(values: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
    for name, number in values:
        if not re.fullmatch(r"[a-z]+(\.[a-z0-9]+(-[a-z0-9]+)*)+", name):
            raise ValueError(f"{name!r} is no name of a threshold, as disk.root-mib")
        if not (math.isfinite(number) and number >= 0):
            raise ValueError(f"{name}: wanted a number that is not negative")
    return values


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _pattern(pattern: str, example: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"wanted for example {example}")
        return value

    return AfterValidator(check)


Url = Annotated[str, AfterValidator(_url)]
Path = Annotated[str, AfterValidator(_path)]
Places = Annotated[
    tuple[Annotated[str, AfterValidator(_place)], ...],
    BeforeValidator(_listed),
    Field(max_length=16),
]
Requirements = Annotated[
    tuple[Annotated[str, AfterValidator(_requirement)], ...],
    BeforeValidator(_listed),
    Field(max_length=200),
]


class Waiver(BaseModel):
    """A finding of verification that a site knows of and accepts until a day."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    check: Annotated[str, _pattern(r"[a-z]+\.[a-z0-9]+(-[a-z0-9]+)*", "gpu.xid")]
    gpu: Annotated[str, _pattern(r"GPU-[0-9a-f-]{36}|\d{1,2}", "GPU-<uuid> or 3")] | None = None
    """UUID or index of the one GPU that it is about; left out, the whole host."""
    owner: Annotated[str, _pattern(r"[^\x00-\x1f\x7f]{1,80}", "ops")]
    reason: Annotated[str, _pattern(r"[^\x00-\x1f\x7f]{1,200}", "ticket 4711")]
    until: Annotated[str, AfterValidator(_day)]
    """Last day that it holds, as 2026-12-31."""


class NodeSpec(BaseModel):
    """The wish for one host, as flat inventory keys. Unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    policy: Literal["keep", "lts", "production", "newest"] = "keep"
    """How a version that no pin decides is chosen. `keep`: a working driver stays, a bare host
    gets the newest LTS stack; `lts`, `production`: newest of that driver type; `newest`: newest
    that the catalogue knows."""

    driver: (
        Annotated[str, _pattern(r"none|\d{3}(\.\d{2,3}(\.\d{2})?)?", "580, 580.178.04 or none")]
        | None
    ) = None
    """Driver branch, exact driver version, or `none`."""
    origin: Literal["auto", "vendor", "distribution"] = "auto"
    """Whose driver packages: the GPU vendor's repository or the distribution's own; `auto` takes
    the vendor's unless only the distribution's can work (signed modules under Secure Boot, a
    branch that the vendor's repository does not hold)."""
    driver_modules: Literal["open", "closed"] | None = None
    """Kernel-module flavour; left out, the hardware decides."""
    cuda: Annotated[str, _pattern(r"none|\d{2}\.\d", "13.0 or none")] | None = None
    """CUDA toolkit release; left out, the newest that agrees with the torch wheel."""
    cudnn: Annotated[str, _pattern(r"none|9(\.\d+){0,3}", "9, 9.20.0.48 or none")] | None = None
    nccl: Annotated[str, _pattern(r"none|2(\.\d+){0,2}", "2.29.7 or none")] | None = None
    dcgm: Annotated[str, _pattern(r"latest|4(\.\d+){0,2}", "latest or 4.5.2")] | None = None
    """Data Center GPU Manager; left out, not managed."""
    container_toolkit: (
        Annotated[str, _pattern(r"latest|1(\.\d+){0,2}", "latest or 1.18.2")] | None
    ) = None
    """NVIDIA container toolkit with CDI; left out, not managed."""
    torch: Annotated[str, _pattern(r"none|2\.\d+(\.\d+)?", "2.13.0, 2.13 or none")] | None = None
    torch_build: Annotated[str, _pattern(r"auto|cpu|cu\d{3}", "auto, cpu or cu130")] = "auto"
    """Which build of the torch wheel: `auto` from the hardware, or one by name."""
    same_torch: Annotated[str, _pattern(r"[A-Za-z0-9][A-Za-z0-9_\-]{0,63}", "train")] | None = None
    """Hosts that name the same word here get one torch release, build and Python among them."""
    env: Literal["uv", "venv"] = "uv"
    """What makes the environment on the host: uv, or the standard library's venv with pip."""
    python: Annotated[str, _pattern(r"3\.\d{1,2}", "3.11")] | None = None
    """Python of the environment; left out, the host's own when torch supports it, else one that
    uv brings."""
    python_downloads: Url | None = None
    """A site's own list of Python builds (the JSON of uv's --python-downloads-json-url) for hosts
    whose distribution's Python is too old; left out, uv's own list."""
    extras: Requirements = ()
    """More requirements for the environment, in pip's syntax, locked with the rest."""

    prefix: Annotated[str, AfterValidator(_prefix)] = "/opt/gpufleet"
    """Where environments and tools live on the host."""
    privileged: bool = True
    """Root may be used. False: only the Python environment, everything below the prefix; a driver
    and whatever else root would install count as they are found."""
    library_path: bool = False
    """Put /usr/local/cuda/lib64 in front of every program's loader path. Off: a system cuDNN or
    NCCL before the wheel's own breaks torch at the first convolution."""
    persistence: bool = True
    """Persistence daemon enabled and running; False leaves it as it is."""
    mig: (
        Annotated[
            tuple[Annotated[str, _pattern(r"\d{1,2}g\.\d{1,3}gb(\+me|\+gfx)?", "3g.40gb")], ...],
            BeforeValidator(_listed),
            Field(max_length=16),
        ]
        | None
    ) = None
    """MIG instances of every GPU, each with its default compute instance; () disables MIG; left
    out, as it is found."""
    power_limit: Annotated[int, Field(ge=50, le=2000)] | None = None
    """Watts per GPU, set again at every boot; left out, as it is found."""
    ecc: bool | None = None
    """ECC of GPU memory from the next boot on; left out, as it is found."""
    module_options: Annotated[
        tuple[Annotated[str, _pattern(r"NVreg_[A-Za-z0-9]+=[A-Za-z0-9_.:\-]+", "NVreg_X=1")], ...],
        BeforeValidator(_listed),
        Field(max_length=32),
    ] = ()
    """Options of the kernel module `nvidia`."""
    memlock: Literal["unlimited"] | None = None
    """Lockable memory of sessions and services, which RDMA needs; left out, as it is found."""
    gpus: Annotated[int, Field(ge=0, le=64)] | None = None
    """How many GPUs this host must have; left out, as many as its PCI bus shows."""

    network_ports: Annotated[int, Field(ge=0, le=64)] | None = None
    """How many InfiniBand, RoCE or EFA ports must be up; left out, as many as the last good run."""
    mounts: Annotated[tuple[Path, ...], BeforeValidator(_listed), Field(max_length=32)] = ()
    """Mount points that jobs need; verification looks that each is mounted and answers."""
    train_address: Annotated[str, _pattern(r"[A-Za-z0-9._:\-]{1,253}", "10.0.0.11")] | None = None
    """Name or address by which the other hosts reach this one for training; left out, the one that
    it was logged in to by."""
    thresholds: Annotated[
        tuple[tuple[str, float], ...], BeforeValidator(_pairs), AfterValidator(_finite)
    ] = ()
    """Figures that verification compares with, in place of its own (verify/thresholds.py)."""
    waivers: Annotated[tuple[Waiver, ...], BeforeValidator(_listed), Field(max_length=100)] = ()
    """Findings of verification that are known and accepted: shown, and not counted."""

    proxy: Url | None = None
    """HTTP proxy for package downloads on the host."""
    ca_bundle: Path | None = None
    """CA bundle on the host that package downloads trust."""
    vendor_repository: Url | None = None
    """Mirror of the vendor's package repository for this distribution and architecture."""
    vendor_key_fingerprint: (
        Annotated[str, _pattern(r"[0-9A-F]{40}", "40 capital hex digits")] | None
    ) = None
    """Primary key that signs `vendor_repository`, when it is not the vendor's own."""
    python_index: Url | None = None
    """Index for Python packages other than torch."""
    torch_index: Url | None = None
    """Index that replaces the vendor's index of torch wheels."""
    find_links: Places = ()
    """Folders on the host or pages that list wheels, searched besides the indexes. A folder must
    exist under the same path where the lock is made."""

    @model_validator(mode="before")
    @classmethod
    def _without_root(cls, values: Any) -> Any:
        """Without root nothing but the environment is managed: that is what `none` says."""
        if not isinstance(values, dict) or values.get("privileged") is not False:
            return values
        wished = [key for key in NEEDS_ROOT if values.get(key, NONE) not in (None, NONE, False, ())]
        faults = [f"{', '.join(wished)} cannot be had without root"] if wished else []
        prefix = values.get("prefix", "/opt/gpufleet")
        if isinstance(prefix, str) and prefix.startswith(ROOTS_OWN):
            faults.append(
                f"prefix {prefix} is root's to write: wanted a directory of the user's, as "
                "/home/NAME/.local/share/gpufleet"
            )
        if faults:
            raise ValueError(f"privileged = False: {'; '.join(faults)}")
        return {**values, **dict.fromkeys(("driver", "cuda", "cudnn", "nccl"), NONE)}


SPEC_KEYS = frozenset(NodeSpec.model_fields)


def read_spec(host: str, values: dict[str, Any]) -> tuple[NodeSpec | None, list[Fault]]:
    """The spec of one host from its merged inventory values, or every fault in them."""
    try:
        return NodeSpec.model_validate(values), []
    except ValidationError as error:
        return None, [_fault(host, dict(detail)) for detail in error.errors()]


def _fault(host: str, detail: dict[str, Any]) -> Fault:
    key = ".".join(str(part) for part in detail["loc"])
    message = str(detail["msg"]).removeprefix("Value error, ")
    if not key:  # of the whole spec; the message names the keys
        return Fault(host, "", message)
    if detail["type"] == "extra_forbidden":
        from difflib import get_close_matches

        near = get_close_matches(key, SPEC_KEYS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return Fault(host, key, f"unknown key{hint}")
    found = repr(detail["input"])
    found = found if len(found) <= 60 else found[:57] + "..."
    return Fault(host, key, f"found {found}: {message[:1].lower() + message[1:]}")
