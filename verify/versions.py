"""Versions of the driver as a host shows them. Travels to the host."""

from __future__ import annotations

from verify.applies import Scene


def stale(scene: Scene) -> bool:
    """The loaded module is not the installed one: somebody upgraded and did not reboot."""
    modules, running = scene.report["modules"], scene.report["kernel"]["running"]
    loaded = modules["loaded"].get("nvidia", "")
    installed = modules["installed"].get(running, {}).get("version", "")
    return bool(loaded and installed) and loaded != installed


def upstream(version: str) -> str:
    """A Debian version without epoch and revision: 580.178.04 of 580.178.04-1."""
    without_epoch = version.rpartition(":")[2]
    return without_epoch.rpartition("-")[0] or without_epoch
