"""A driver's service that must run, decided from what the host shows."""

from deploy.facts import NodeFacts
from deploy.known import known
from deploy.shell import assign, script
from deploy.steps import Command, Step

ENABLED = frozenset({"enabled", "enabled-runtime", "static", "indirect", "alias", "generated"})
"""Answers of `systemctl is-enabled` that mean it starts by itself (systemctl(1))."""

_START = """\
systemctl daemon-reload
case "$(systemctl is-enabled "$unit" 2>/dev/null || :)" in
    enabled | enabled-runtime | static | indirect | alias | generated) ;;
    *) systemctl enable "$unit" ;;
esac
loaded=$(cat /sys/module/nvidia/version 2>/dev/null || :)
if [ "$loaded" != "$version" ]; then
    echo "driver ${loaded:-none} is loaded, not $version: $unit starts at the next boot"
    exit 0
fi
systemctl is-active -q "$unit" && exit 0
systemctl reset-failed "$unit" 2>/dev/null || :
if ! systemctl start "$unit"; then
    systemctl status --no-pager --lines 20 "$unit" >&2 || :
    exit 1
fi
"""


def runs(facts: NodeFacts, unit: str) -> bool:
    """The unit is active and starts by itself at boot."""
    service = known(facts, "services", facts.services).get(f"{unit}.service")
    return service is not None and service.active == "active" and service.enabled in ENABLED


def running_step(
    layer: str, unit: str, facts: NodeFacts, driver: str, *, will_stop: bool = False
) -> list[Step]:
    """The step that enables and starts `unit`, which works with driver version `driver` only.

    While another driver is loaded it is only enabled; the boot that brings the driver starts it.
    `will_stop` tells that an earlier step of the same plan stops it.
    """
    if runs(facts, unit) and not will_stop:
        return []
    service = known(facts, "services", facts.services).get(f"{unit}.service")
    found = (
        "not there"
        if service is None or service.load == "not-found"
        else (f"{service.active}, {service.enabled}")
    )
    return [
        Step(
            layer=layer,
            title=f"{unit} is enabled and runs",
            why=f"found {found}" if not will_stop else "it is stopped while it changes",
            commands=(
                Command(shell=script(assign(unit=unit, version=driver), _START), timeout_s=300),
            ),
        )
    ]
