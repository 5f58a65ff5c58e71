"""What every host needs, with or without GPUs: its own name, space, the state it should be in."""

from __future__ import annotations

from typing import Any

from verify.applies import Scene
from verify.checks import HOST, Component, Look, check, said

LEAST_FREE_MIB = {"/": 512, "/tmp": 256, "/var/lib": 256}
"""Free space below which what runs on a host fails: checkpoints' and compilers' temporary files,
the package manager, the journal. Ours; peers take 80 to 95 % of the size (research: verification
1.1), which on disks of terabytes says nothing."""
LEAST_FREE_AT_PREFIX_MIB = 64
"""An environment is in place already and grows no more; room for one more record."""
SCARCE = 4
"""Below this many times the least it is said before it fails."""


@check(
    "host.self-name",
    component="host",
    source="torchrun's rendezvous asks for the host's own name (design 6: tried, gaierror)",
    fault="no-self-name",
)
def test_self_name(report: dict[str, Any], look: Look) -> None:
    """The host can resolve its own name, without which torchrun fails."""
    found = report["self_name"]
    look.at(
        Component(kind="host", name=found["name"]),
        "addresses of its own name",
        found=found["addresses"] or found["error"],
        expected="at least one, as of a line in /etc/hosts",
        held=bool(found["addresses"]),
    )


@check(
    "host.disk",
    component="disk",
    source="verify/test_host.py LEAST_FREE_MIB, research: verification 1.1",
    fault="tmp-full",
)
def test_disk(report: dict[str, Any], asked: dict[str, Any], look: Look) -> None:
    """There is free space where it is needed, and nothing is read-only."""
    for disk in report["disks"]:
        component = Component(kind="disk", name=disk["path"])
        if disk["free_mib"] is None or disk["readonly"] is None:
            look.unknown(component, "free space", why=disk["error"] or "it could not be read")
            continue
        least = LEAST_FREE_MIB.get(disk["path"], LEAST_FREE_AT_PREFIX_MIB)
        if disk["readonly"]:
            look.at(component, "filesystem", found="read-only", expected="writable")
            continue
        found, wanted = f"{disk['free_mib']} MiB", f"at least {least} MiB"
        if look.at(
            component,
            "free space",
            found=found,
            expected=wanted,
            held=disk["free_mib"] >= least,
        ):
            look.at(
                component,
                "free space, with some to spare",
                found=found,
                expected=f"at least {SCARCE * least} MiB",
                held=disk["free_mib"] >= SCARCE * least,
                verdict="degraded",
            )


@check(
    "host.expected",
    component="host",
    verdict="degraded",
    source="deploy/layers/expected.py: apply and adopt write the lock's answer to the host",
    fault="expected-drift",
    needs=("own-state",),
)
def test_expected(scene: Scene, look: Look) -> None:
    """The host's own expected state is the lock's, so that checks at boot ask the same."""
    if scene.own_fault:
        look.at(
            HOST,
            "the host's own expected state",
            found=scene.own_fault,
            expected="one that can be used; `gpufleet apply` writes it",
        )
        return
    wanted, mine = scene.expected, scene.own
    assert wanted is not None
    baseline = scene.expected_from
    if mine is None:
        look.at(
            HOST,
            "the host's own expected state",
            found="there is none",
            expected=f"stack {wanted['stack']}; `gpufleet apply` writes it",
            held=False,
            verdict="degraded",
            baseline=baseline,
        )
        return
    lines = differences(mine, wanted)
    look.at(
        HOST,
        "the host's own expected state",
        found=f"stack {mine['stack']}{_but(lines, mine, wanted)}",
        expected=f"stack {wanted['stack']}; `gpufleet apply` writes it",
        held=not lines,
        verdict="degraded",
        baseline=baseline,
        evidence=lines,
    )


def _but(lines: list[str], mine: dict[str, Any], wanted: dict[str, Any]) -> str:
    same = lines and mine["stack"] == wanted["stack"]
    return f", but {len(lines)} of its values differ" if same else ""


def differences(mine: dict[str, Any], wanted: dict[str, Any], above: str = "") -> list[str]:
    """What the host's own state says otherwise, a line each; the host's name apart, which is the
    inventory's choice."""
    lines = []
    for key in sorted((mine.keys() | wanted.keys()) - {"host"}):
        found, locked = mine.get(key), wanted.get(key)
        if isinstance(found, dict) and isinstance(locked, dict):
            lines += differences(found, locked, f"{above}{key}.")
        elif found != locked:
            lines.append(f"{above}{key}: {said(found)}, locked is {said(locked)}")
    return lines
