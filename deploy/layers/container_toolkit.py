"""NVIDIA container toolkit at exact versions; containers get GPUs by CDI.

The package's own units keep /run/cdi/nvidia.yaml in step with the driver: a path unit that watches
modules.dep, and a service that runs at boot (nvidia-container-toolkit, deployments/systemd,
2026-11). Runtimes that speak CDI (podman, and containerd and docker of today) need nothing else, so
no runtime's configuration is touched. A specification in /etc/cdi besides lists every
device twice; it is somebody's own, so it is named and left.
"""

from deploy.facts import NodeFacts
from deploy.known import known
from deploy.layers import module
from deploy.layers.library import packages_step
from deploy.layers.services import ENABLED
from deploy.packages import difference
from deploy.shell import assign, script
from deploy.stack import Driver
from deploy.steps import Command, Step, Wanted

NAME = "container-toolkit"
FAMILY = r"nvidia-container-runtime|nvidia-docker2"
"""Wrappers of before 1.14 that tie themselves to an old toolkit and hold nothing else."""
PATH_UNIT = "nvidia-cdi-refresh.path"
SERVICE = "nvidia-cdi-refresh.service"
REFRESH_SINCE = (1, 18)
"""First release with these units (its changelog, 2025)."""
STATIC = "/etc/cdi/"
WRITTEN = "/run/cdi/nvidia."
"""What the service writes, as .yaml or .json; others there are somebody else's (Kubernetes' device
plugin keeps one)."""

_FOLLOW = f"""\
systemctl daemon-reload
systemctl enable {SERVICE}
systemctl enable --now {PATH_UNIT}
"""

_REFRESH = f"""\
loaded=$(cat /sys/module/nvidia/version 2>/dev/null || :)
if [ "$loaded" != "$version" ]; then
    echo "driver ${{loaded:-none}} is loaded, not $version: a boot writes the specification"
    exit 0
fi
systemctl restart {SERVICE}
if ! grep -qsF "libcuda.so.$version" {WRITTEN}*; then
    echo "{SERVICE} wrote no {WRITTEN}yaml with driver $version; does" \\
        "/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env name another place?" >&2
    systemctl status --no-pager --lines 20 {SERVICE} >&2 || :
    exit 1
fi
"""


def steps(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    """Packages, units, and the specification of the loaded driver."""
    toolkit, driver = wanted.stack.container_toolkit, wanted.stack.driver
    if toolkit is None:
        return []
    found = packages_step(NAME, "container toolkit", wanted, toolkit, facts, FAMILY)
    if not refreshes(toolkit.version):
        return found
    found += _followed(facts)
    return found + (_written(wanted, facts, driver) if driver else [])


def refreshes(version: str) -> bool:
    """This release keeps the specification by itself."""
    return tuple(int(word) for word in version.split(".")[:2]) >= REFRESH_SINCE


def _followed(facts: NodeFacts) -> list[Step]:
    services = known(facts, "services", facts.services)
    path, service = services.get(PATH_UNIT), services.get(SERVICE)
    if path is not None and service is not None and path.active == "active":
        if path.enabled in ENABLED and service.enabled in ENABLED:
            return []
        why = f"found {PATH_UNIT} {path.enabled}, {SERVICE} {service.enabled}"
    elif path is None or path.load == "not-found":
        why = "there is no such unit yet"
    else:
        why = f"found {PATH_UNIT} {path.active}, {path.enabled}"
    return [
        Step(
            layer=NAME,
            title="the CDI specification follows the driver",
            why=why,
            commands=(Command(shell=script(_FOLLOW), timeout_s=120),),
        )
    ]


def _written(wanted: Wanted, facts: NodeFacts, driver: Driver) -> list[Step]:
    specifications = known(facts, "cdi", facts.cdi)
    changes = bool(difference(driver.packages, known(facts, "packages", facts.packages)))
    runs = module.runs(known(facts, "modules", facts.modules), driver)
    made_of = {v for path, v in specifications.items() if path.startswith(WRITTEN)}
    if made_of == {driver.version} and runs and not changes:
        return []
    if not made_of:
        why = f"there is no {WRITTEN}yaml"
    elif made_of != {driver.version}:
        why = f"it is of driver {', '.join(sorted(made_of)) or 'unknown'}"
    else:
        why = "the driver changes"
    command = Command(shell=script(assign(version=driver.version), _REFRESH), timeout_s=120)
    return [
        Step(
            layer=NAME,
            title=f"the CDI specification is of driver {driver.version}",
            why=why,
            commands=(command,),
            disruptive=runs and changes,
        )
    ]


def warnings(wanted: Wanted, facts: NodeFacts) -> list[str]:
    """What stands in the way of containers."""
    toolkit = wanted.stack.container_toolkit
    if toolkit is None:
        return []
    static = [path for path in known(facts, "cdi", facts.cdi) if path.startswith(STATIC)]
    found = [
        f"{path} lists the GPUs, too, and does not follow the driver: with /run/cdi every device "
        "is there twice; remove it when nothing of yours writes it"
        for path in static
    ]
    if not refreshes(toolkit.version):
        found.append(
            f"container toolkit {toolkit.version} keeps no CDI specification by itself "
            f"({'.'.join(map(str, REFRESH_SINCE))} and later do)"
        )
    return found
