"""A driver's service that must run, decided from what the host shows."""

from deploy.facts import NodeFacts
from deploy.known import known
from deploy.layers.module import runs as loaded
from deploy.packages import difference
from deploy.shell import assign, script
from deploy.stack import Driver
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
    layer: str, unit: str, facts: NodeFacts, driver: Driver, *, will_stop: bool = False
) -> list[Step]:
    """The step that enables and starts `unit`, which works with its own driver's version only.

    While another driver is loaded it is only enabled; the boot that brings the driver starts it.
    `will_stop` tells that an earlier step of the same plan stops it; a change of the driver does
    so in any case.
    """
    changes = bool(difference(driver.packages, known(facts, "packages", facts.packages)))
    with_driver = changes or not loaded(known(facts, "modules", facts.modules), driver)
    fine = runs(facts, unit)
    if fine and not will_stop and not with_driver:
        return []
    service = known(facts, "services", facts.services).get(f"{unit}.service")
    if fine:
        why = "it stops while the driver or its own package changes"
    elif service is None or service.load == "not-found":
        why = "there is no such unit yet"
    else:
        why = f"found {service.active}, {service.enabled}"
    start = Command(shell=script(assign(unit=unit, version=driver.version), _START), timeout_s=300)
    return [
        Step(
            layer=layer,
            title=f"{unit} is enabled and runs",
            why=why,
            commands=(start,),
            # It belongs to the change that stops it: without that there is nothing to start.
            disruptive=fine,
        )
    ]
