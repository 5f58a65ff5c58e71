"""One bridge and one /24 of 10.77.0.0/16 per fleet, with a way out through the machine."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.sim import paths
from tests.sim.proc import run

_SETTINGS = {
    Path("/proc/sys/net/ipv4/ip_forward"): 1,
    # The kernel's own 128 are shared by all nodes' systemd; a dozen nodes use them up, and the
    # next ones boot without sshd.
    Path("/proc/sys/fs/inotify/max_user_instances"): 1024,
}
"""Settings of this machine that nodes need, each with the least value that does."""


def bridge(index: int) -> str:
    """Return the name of a fleet's bridge."""
    return f"gpufleet-sim{index}"


def subnet(index: int) -> str:
    """Return the network of a fleet."""
    return f"10.77.{index}.0/24"


def address(index: int, host: int) -> str:
    """Return an address in a fleet's network: 1 is the machine, 11 the first node."""
    return f"10.77.{index}.{host}"


def machine(index: int, node: str) -> str:
    """Return the name of a node's container; its end of the link on this machine is vb-NAME."""
    return f"s{index}-{node}"


def owner(index: int) -> str | None:
    """Return the directory of the fleet whose bridge this is, "" for a stranger's, None for none.

    The directory is written on the bridge itself, so a bridge left behind is known for ours
    whatever happened to our files.
    """
    shown = run("ip", "-json", "link", "show", "dev", bridge(index), check=False)
    if shown.returncode == 0:
        alias = json.loads(shown.stdout)[0].get("ifalias", "")
        return str(alias)
    taken = run("ip", "-4", "-oneline", "address").stdout
    return "" if re.search(rf"inet 10\.77\.{index}\.", taken) else None


def owned(directory: Path) -> list[int]:
    """Return the indices of the bridges that were made for a fleet's directory."""
    links = json.loads(run("ip", "-json", "link", "show", "type", "bridge").stdout or "[]")
    ours = [link for link in links if link.get("ifalias") == str(directory)]
    return [int(link["ifname"].removeprefix(bridge(0)[:-1])) for link in ours]


def build(index: int, directory: Path) -> None:
    """Make the fleet's bridge and its rules; what is there already stays.

    Nodes that are on have lost their place when the bridge was lost: their ends are put back.
    """
    name = bridge(index)
    if owner(index) is None:
        run("ip", "link", "add", name, "type", "bridge")
        run("ip", "link", "set", name, "alias", str(directory))
    run("ip", "address", "replace", f"{address(index, 1)}/24", "dev", name)
    run("ip", "link", "set", name, "up")
    for link in json.loads(run("ip", "-json", "link", "show", "type", "veth").stdout or "[]"):
        if link["ifname"].startswith(f"vb-{machine(index, '')}") and "master" not in link:
            run("ip", "link", "set", link["ifname"], "master", name)
    for setting, least in _SETTINGS.items():
        before = setting.read_text()
        if int(before) < least:
            _saved(setting).write_text(before)
            setting.write_text(f"{least}\n")
    for rule in _rules(index):
        if run("iptables", "-w", *_do("-C", rule), check=False).returncode != 0:
            run("iptables", "-w", *_do("-I", rule))


def remove(index: int) -> None:
    """Take away a fleet's bridge and rules; after the last fleet, settings as before."""
    for rule in _rules(index):
        while run("iptables", "-w", *_do("-D", rule), check=False).returncode == 0:
            pass
    run("ip", "link", "delete", bridge(index), check=False)
    if re.search(r"gpufleet-sim\d", run("ip", "link").stdout):
        return
    for setting in _SETTINGS:
        if _saved(setting).exists():
            setting.write_text(_saved(setting).read_text())
            _saved(setting).unlink()


def _saved(setting: Path) -> Path:
    return paths.cache() / f"{setting.name}.before"


def usable(index: int, directory: Path) -> bool:
    """Tell whether a fleet may use this index: nothing else on this machine has its addresses."""
    return owner(index) in (None, str(directory))


def _rules(index: int) -> list[list[str]]:
    net, name = subnet(index), bridge(index)
    return [
        ["nat", "POSTROUTING", "-s", net, "!", "-d", net, "-j", "MASQUERADE"],
        ["filter", "FORWARD", "-i", name, "-j", "ACCEPT"],
        ["filter", "FORWARD", "-o", name, "-j", "ACCEPT"],
    ]


def _do(action: str, rule: list[str]) -> list[str]:
    return ["-t", rule[0], action, *rule[1:]]
