"""What every host needs, with or without GPUs: its own name, space, the state it should be in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from verify.applies import Scene
from verify.checks import HOST, Component, Look, check, said

LEAST_FREE = {"/": "disk.root-mib", "/tmp": "disk.tmp-mib", "/var/lib": "disk.var-mib"}
"""Place -> the threshold of its free space."""
LEAST_FREE_AT_PREFIX = "disk.prefix-mib"


@check(
    "host.self-name",
    component="host",
    source="torchrun's rendezvous asks for the host's own name (tried: a bare gaierror without)",
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
    source="verify/thresholds.py, disk.*; full disks: Imbue's cluster-health, facebookresearch/gcm",
    fault="tmp-full",
)
def test_disk(report: dict[str, Any], threshold: Callable[[str], float], look: Look) -> None:
    """There is free space where it is needed, also for more files, and nothing is read-only."""
    for disk in report["disks"]:
        component = Component(kind="disk", name=disk["path"])
        if disk["free_mib"] is None or disk["readonly"] is None:
            look.unknown(component, "free space", why=disk["error"] or "it could not be read")
            continue
        if disk["readonly"]:
            look.at(component, "filesystem", found="read-only", expected="writable")
            continue
        least = threshold(LEAST_FREE.get(disk["path"], LEAST_FREE_AT_PREFIX))
        scarce = threshold("disk.scarce")
        _free(component, "free space", disk["free_mib"], " MiB", least, scarce, look)
        if disk["inodes"]:  # a filesystem that makes them as it needs them has none to count
            least = min(threshold("disk.inodes"), disk["inodes"] / (2 * scarce))
            _free(component, "free inodes", disk["free_inodes"], "", least, scarce, look)


def _free(
    component: Component, what: str, found: int, unit: str, least: float, scarce: float, look: Look
) -> None:
    """Enough, and with some to spare."""
    if look.at(
        component,
        what,
        found=f"{found}{unit}",
        expected=f"at least {least:g}{unit}",
        held=found >= least,
    ):
        look.at(
            component,
            f"{what}, with some to spare",
            found=f"{found}{unit}",
            expected=f"at least {scarce * least:g}{unit}",
            held=found >= scarce * least,
            verdict="degraded",
        )


@check(
    "host.mounts",
    component="disk",
    needs=("mounts",),
    action="drain",
    source="facebookresearch/gcm, leptonai/gpud: filesystems that jobs need; mounts are among the "
    "commonest causes of failed jobs (Meta's clusters, arXiv 2410.21680)",
    fault="mount-gone",
)
def test_mounts(report: dict[str, Any], look: Look) -> None:
    """Every filesystem that jobs need is mounted, answers, and can be written to."""
    for mount in report["mounts"]:
        component = Component(kind="disk", name=mount["path"])
        if mount["hung"]:
            look.unknown(component, "filesystem", why=mount["error"], hung=True)
        elif mount["mounted"] is None:
            look.unknown(component, "filesystem", why=mount["error"] or "it could not be asked")
        elif not mount["mounted"] or mount["error"]:
            look.at(
                component,
                "filesystem",
                found=mount["error"] or "nothing is mounted there",
                expected="mounted and answering, as the inventory's `mounts` says",
            )
        else:
            look.at(
                component,
                "filesystem",
                found=f"{mount['type']} from {mount['source']}, "
                + ("read-only" if mount["readonly"] else "writable"),
                expected="mounted and writable",
                held=not mount["readonly"],
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
