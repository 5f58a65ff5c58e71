"""GPUs as components of findings, and what of them cannot be read. Travels to the host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from verify.applies import Scene, hidden_by_mig, told_of
from verify.checks import Component, Look


def part(gpu: dict[str, Any]) -> Component:
    """The component that a GPU of a report (or of the record) is."""
    return Component(
        kind="gpu",
        name=gpu.get("name") or "",
        index=gpu.get("index"),
        uuid=gpu.get("uuid") or "",
        serial=gpu.get("serial") or "",
        slot=gpu.get("slot") or "",
    )


def at_slot(slot: str, scene: Scene) -> Component:
    """The GPU in a PCI slot (with or without its function), as well as it is known: from NVML,
    else from the record of the last good run, else the slot alone."""
    for gpu in scene.report["nvml"]["gpus"]:
        if same_slot(gpu["slot"], slot) and gpu["uuid"]:
            return part(gpu)
    index = next((gpu["index"] for gpu in lost_gpus(scene) if same_slot(gpu["slot"], slot)), None)
    for gpu in scene.record["gpus"] if scene.record else []:
        if same_slot(gpu["slot"], slot):
            return part({**gpu, "index": index})
    return Component(kind="gpu", index=index, slot=slot)


def same_slot(one: str | None, other: str | None) -> bool:
    """Two PCI addresses name one device: 0000:19:00 and 0000:19:00.0."""
    return bool(one and other) and _device(one) == _device(other)


def _device(slot: str | None) -> str:
    return (slot or "").lower().partition(".")[0]


def lost_gpus(scene: Scene) -> list[dict[str, Any]]:
    """GPUs that NVML lists and cannot talk to, with the slot as well as it can be known.

    A lost GPU may not tell its own slot; then it has the one of the PCI bus that reads ff, or that
    no other GPU has, where only one is left.
    """
    gpus = scene.report["nvml"]["gpus"]
    taken = {_device(gpu["slot"]) for gpu in gpus if gpu["slot"]}
    free = [one for one in scene.report["pci"]["gpus"] if _device(one["slot"]) not in taken]
    dead = [one["slot"] for one in free if one["revision"] == "ff"] or [one["slot"] for one in free]
    found = []
    nameless = [gpu for gpu in gpus if gpu["lost"] and not gpu["slot"]]
    for gpu in gpus:
        if not gpu["lost"]:
            continue
        slot = gpu["slot"]
        if not slot and len(nameless) == len(dead):
            # NVML and the bus list GPUs in one order, that of their addresses.
            slot = sorted(dead)[nameless.index(gpu)]
        found.append({**gpu, "slot": slot or ""})
    return found


def out_of_reach(scene: Scene) -> dict[str, str]:
    """PCI slots (without function) of GPUs that cannot answer -> why: what gpu.answers finds."""
    found = {}
    for one in scene.report["pci"]["gpus"]:
        if one["revision"] == "ff":
            found[_device(one["slot"])] = "its configuration space reads ff: it is off the bus"
        elif one["driver"] not in ("nvidia", ""):
            found[_device(one["slot"])] = f"it is bound to {one['driver']}"
    for gpu in lost_gpus(scene):
        if gpu["slot"]:
            found.setdefault(_device(gpu["slot"]), "NVML says that it is lost")
    return found


def is_out_of_reach(scene: Scene, slot: str | None) -> bool:
    """gpu.answers has a finding about the GPU in this slot."""
    return _device(slot) in out_of_reach(scene)


def answering(gpus: list[dict[str, Any]], scene: Scene, look: Look) -> Iterator[dict[str, Any]]:
    """The GPUs that answer; those that do not are recorded as consequences of gpu.answers."""
    for gpu in gpus:
        if gpu["lost"]:
            mine = [one for one in lost_gpus(scene) if one["index"] == gpu["index"]]
            component = at_slot(mine[0]["slot"], scene) if mine[0]["slot"] else part(gpu)
            look.unknown(component, "this GPU", why="it is lost", because="gpu.answers")
        else:
            yield gpu


def told(gpu: dict[str, Any], path: str, what: str, look: Look) -> Any:
    """A value by its dotted path, as heat.gpu. None when this model does not tell it, and when it
    could not be read, which is recorded as unknown."""
    found = told_of(gpu, path)
    if found is None:
        for name in (path, path.partition(".")[0]):
            if name in gpu["errors"]:
                look.unknown(part(gpu), what, why=gpu["errors"][name])
                break
    return found


def having(
    field: str, what: str, gpus: list[dict[str, Any]], scene: Scene, look: Look
) -> Iterator[tuple[dict[str, Any], Any]]:
    """The GPUs that answer and have a value for `field`, with it. One that could not be read is
    recorded as unknown; one that this model does not have is nothing to look at."""
    for gpu in answering(gpus, scene, look):
        if gpu[field] is not None:
            yield gpu, gpu[field]
        elif field in gpu["errors"]:
            look.unknown(part(gpu), what, why=gpu["errors"][field])
        elif hidden_by_mig(gpu, field):
            why = "MIG is on: NVML tells it of whole GPUs only"
            look.unknown(part(gpu), what, why=why, because="gpu.mig")
