"""Settings of the GPUs themselves: power limit, ECC mode, MIG instances.

Power limit and MIG instances are forgotten at every boot, so a unit of ours makes them again; ECC
lasts, and takes effect with a boot (nvidia-smi manual page, -pl and -e, branch 580, 2026-11).
Decided from what the loaded driver says, once the wanted one is loaded; a plan that loads it first
sets them blindly, and the next probe tells. A setting that is left out of the inventory stays as
it is; only our files go.
"""

from deploy import mig, module, module_options
from deploy.facts import NodeFacts
from deploy.files import file_step, in_place
from deploy.idle import MUST_BE_IDLE
from deploy.known import known
from deploy.packages import difference
from deploy.record import STOPPED, recorder
from deploy.services import ENABLED
from deploy.setting_facts import GpuSettings
from deploy.shell import PREAMBLE, assign, script, words
from deploy.stack import Blocked, Driver
from deploy.steps import Command, Reboot, Step, Wanted

NAME = "settings"
SCRIPT = "/etc/gpufleet/gpu-settings.sh"
UNIT = "gpufleet-gpu-settings"
UNIT_PATH = f"/etc/systemd/system/{UNIT}.service"
UNIT_TEXT = f"""\
# GPU settings that a boot forgets. Written by gpufleet, which keeps this file as it is.
[Unit]
Description=GPU settings of gpufleet: power limit, MIG instances
After=nvidia-persistenced.service nvidia-fabricmanager.service
Before=nvidia-dcgm.service dcgm-exporter.service docker.service containerd.service
Before=kubelet.service slurmd.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh {SCRIPT}
TimeoutStartSec=300

[Install]
WantedBy=multi-user.target
"""

_POWER = """\
limit_power() {
    every=$(nvidia-smi --query-gpu=index --format=csv,noheader) || return 1
    refused=
    for gpu in $every; do nvidia-smi -i "$gpu" -pl "$watts" || refused="$refused $gpu"; done
    [ -z "$refused" ] || { echo "GPU$refused: no power limit of $watts W" >&2; return 1; }
}
"""
"""One GPU that refuses keeps no other from its limit: what feeds them relies on it."""

_ECC = """\
every=$(nvidia-smi --query-gpu=index --format=csv,noheader)
for gpu in $every; do
    pending=$(nvidia-smi -i "$gpu" --query-gpu=ecc.mode.pending --format=csv,noheader)
    case "$pending" in
        "$mode") ;;
        Enabled | Disabled) nvidia-smi -i "$gpu" -e "$number" ;;
        *) [ "$number" = 0 ] || { echo "GPU $gpu: ECC cannot be switched" >&2; exit 1; } ;;
    esac
done
"""

_LOADED = """\
loaded=$(cat /sys/module/nvidia/version 2>/dev/null || :)
if [ "$loaded" != "$version" ]; then
    echo "driver ${loaded:-none} is loaded, not $version: this is set once that is"
    exit 0
fi
"""

_STOPPED = """\
stopped=
for unit in $clients; do
    if systemctl is-active -q "$unit"; then stopped="$stopped $unit"; fi
done
[ -z "$stopped" ] || record $owed "${stopped# }"
start_again() {
    for unit in $stopped; do systemctl start "$unit" || echo "$unit does not start yet"; done
    record $owed ''
}
trap 'code=$?; trap - EXIT; start_again; exit "$code"' EXIT
trap 'exit 143' HUP INT TERM
for unit in $stopped; do systemctl stop "$unit"; done
partition_all
if systemctl is-enabled -q nvidia-cdi-refresh.service 2>/dev/null; then
    systemctl restart nvidia-cdi-refresh.service || :
fi
"""

_ENABLE = f"systemctl daemon-reload\nsystemctl enable {UNIT}.service\n"


def boot_text(wanted: Wanted) -> str:
    """The script that a boot runs, "" when nothing has to be set again."""
    spec = wanted.spec
    parts = []
    if spec.power_limit is not None:
        parts += [assign(watts=str(spec.power_limit)), _POWER, "limit_power || late=1\n"]
    if spec.mig:
        parts += [assign(layout=mig.layout(spec.mig)), mig.SHELL, "partition_all\n"]
    if not parts or wanted.stack.driver is None:
        return ""
    about = "# GPU settings that a boot forgets. Written by gpufleet, which keeps it as it is.\n"
    return "#!/bin/sh\n" + about + PREAMBLE + "".join(parts) + '[ -z "${late:-}" ]\n'


def steps(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    """Files for the next boot, then what is not as wished now."""
    driver = wanted.stack.driver
    if driver is None:
        return _at_boot(wanted, facts)
    return [
        *_at_boot(wanted, facts),
        *_power(wanted, facts, driver),
        *_mig(wanted, facts, driver),
        *_ecc(wanted, facts, driver),
    ]


def settled(wanted: Wanted, facts: NodeFacts) -> bool:
    """The wanted driver is loaded and this plan will not load it anew: its answers count."""
    driver = wanted.stack.driver
    return (
        driver is not None
        and module.runs(known(facts, "modules", facts.modules), driver)
        and not difference(driver.packages, known(facts, "packages", facts.packages))
        and not module_options.differing(wanted, facts)
    )


def _gpus(wanted: Wanted, facts: NodeFacts) -> tuple[GpuSettings, ...] | None:
    """What the wanted driver says, None before it is there."""
    if not settled(wanted, facts):
        return None
    return known(facts, "gpu_settings", facts.gpu_settings)


def _at_boot(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    text = boot_text(wanted)
    if not text:
        return _given_up(facts)
    found = file_step(NAME, "GPU settings for every boot are written", facts, SCRIPT, text)
    title = "GPU settings are made at every boot"
    service = known(facts, "services", facts.services).get(f"{UNIT}.service")
    disabled = service is None or service.enabled not in ENABLED
    if in_place(facts, UNIT_PATH, UNIT_TEXT) and disabled:
        why = f"{UNIT} is {service.enabled if service else 'unknown to systemd'}"
        enable = Command(shell=script(_ENABLE), timeout_s=60)
        return [*found, Step(layer=NAME, title=title, why=why, commands=(enable,))]
    return found + file_step(NAME, title, facts, UNIT_PATH, UNIT_TEXT, then=_ENABLE)


def _given_up(facts: NodeFacts) -> list[Step]:
    files = known(facts, "files", facts.files)
    ours = [path for path in (UNIT_PATH, SCRIPT) if path in files]
    if not ours:
        return []
    text = (
        f"systemctl disable {UNIT}.service || :\nrm -f -- {words(ours)}\nsystemctl daemon-reload\n"
    )
    return [
        Step(
            layer=NAME,
            title="no GPU setting of ours is made at boot",
            why=f"{' and '.join(ours)} exist, but neither power_limit nor mig is wished; what is "
            "set now stays until the driver is loaded again",
            commands=(Command(shell=script(text), timeout_s=60),),
        )
    ]


def _power(wanted: Wanted, facts: NodeFacts, driver: Driver) -> list[Step]:
    watts = wanted.spec.power_limit
    if watts is None:
        return []
    why, gpus = _BLIND, _gpus(wanted, facts)
    if gpus is not None:
        other = [
            f"GPU {gpu.index}: {gpu.power_limit:g} W"
            for gpu in gpus
            if gpu.power_limit is not None and round(gpu.power_limit) != watts
        ]
        if not other:
            return []
        why = f"found {', '.join(other)}"
    text = script(assign(version=driver.version, watts=str(watts)), _LOADED, _POWER, "limit_power")
    return [
        Step(
            layer=NAME,
            title=f"power limit of every GPU is {watts} W",
            why=why,
            commands=(Command(shell=text, timeout_s=120),),
        )
    ]


_BLIND = "the wanted driver is loaded first, and starts with its own settings"


def _mig(wanted: Wanted, facts: NodeFacts, driver: Driver) -> list[Step]:
    wish = wanted.spec.mig
    if wish is None:
        return []
    why, gpus = _BLIND, _gpus(wanted, facts)
    if gpus is not None:
        other = [gpu for gpu in gpus if not mig.as_wished(gpu, wish)]
        if not other:
            return []
        why = "; ".join(mig.told(gpu) for gpu in other)
    title = f"every GPU is cut into {mig.layout(wish)}" if wish else "no GPU is cut by MIG"
    values = assign(
        version=driver.version,
        layout=mig.layout(wish),
        clients=" ".join(mig.CLIENTS),
        owed=STOPPED,
    )
    text = script(values, _LOADED, MUST_BE_IDLE, recorder(), mig.SHELL, _STOPPED)
    return [
        Step(
            layer=NAME,
            title=title,
            why=why,
            commands=(Command(shell=text, timeout_s=300),),
            disruptive=known(facts, "modules", facts.modules).loaded_version != "",
        )
    ]


def _ecc(wanted: Wanted, facts: NodeFacts, driver: Driver) -> list[Step]:
    wish = wanted.spec.ecc
    if wish is None:
        return []
    why, gpus = _BLIND, _gpus(wanted, facts)
    if gpus is not None:
        other = [f"GPU {gpu.index}" for gpu in gpus if gpu.ecc_pending not in {wish, None}]
        if not other:
            return []
        why = f"{'off' if wish else 'on'} for the next boot: {', '.join(other)}"
    values = assign(
        version=driver.version, mode="Enabled" if wish else "Disabled", number=str(int(wish))
    )
    return [
        Step(
            layer=NAME,
            title=f"ECC is {'on' if wish else 'off'} from the next boot on",
            why=why,
            commands=(Command(shell=script(values, _LOADED, _ECC), timeout_s=120),),
        )
    ]


def refused(wanted: Wanted, facts: NodeFacts) -> Blocked | None:
    """Blocked when a GPU cannot have a wished setting, named with what it can have."""
    spec = wanted.spec
    if spec.power_limit is None and spec.mig is None and spec.ecc is None:
        return None
    gpus = _gpus(wanted, facts)
    if gpus is None:
        return None
    found = [] if gpus else ["the loaded driver shows no GPU"]
    for gpu in gpus:
        if spec.power_limit is not None:
            found.append(_beyond(gpu, spec.power_limit))
        found.append(mig.wrong(gpu, spec.mig or ()))
        if spec.ecc and gpu.ecc is None:
            found.append(f"{gpu.name} has no ECC that can be switched on")
    found = [why for why in found if why]
    if not found:
        return None
    return Blocked(
        host=wanted.host,
        reason="; ".join(found),
        rule="a setting is given to every GPU of a host or to none",
        source="nvidia-smi on this host; inventory keys power_limit, mig, ecc",
        unblock=("mend the key in the inventory, or leave it out for this host",),
    )


def _beyond(gpu: GpuSettings, watts: int) -> str:
    if gpu.power_limit is None or gpu.power_min is None or gpu.power_max is None:
        return f"{gpu.name} has no power limit that can be set"
    if gpu.power_min <= watts <= gpu.power_max:
        return ""
    return f"{gpu.name} takes {gpu.power_min:g} to {gpu.power_max:g} W, not {watts}"


def pending(wanted: Wanted, facts: NodeFacts) -> str:
    """What waits for a boot, "" when nothing that is wished does."""
    spec, found = wanted.spec, []
    for gpu in facts.gpu_settings or ():
        if spec.ecc is not None and gpu.ecc != gpu.ecc_pending == spec.ecc:
            found.append(f"ECC of GPU {gpu.index}")
        if spec.mig is not None and gpu.mig != gpu.mig_pending == bool(spec.mig):
            found.append(f"MIG mode of GPU {gpu.index}")
    return f"waiting for a boot: {', '.join(found)}" if found else ""


def foreseen(wanted: Wanted, facts: NodeFacts) -> Reboot | None:
    """The reboot that a change of the ECC mode will need. Boards with ECC come with it on."""
    why, wish = pending(wanted, facts), wanted.spec.ecc
    if not why and wish is not None and wanted.stack.driver is not None:
        gpus = _gpus(wanted, facts)
        changes = not wish if gpus is None else any(g.ecc not in {wish, None} for g in gpus)
        why = f"ECC is switched {'on' if wish else 'off'} by a boot" if changes else ""
    return Reboot(why=why, expected=True) if why else None


def warnings(wanted: Wanted, facts: NodeFacts) -> list[str]:
    """What is not set here, or will not last."""
    spec = wanted.spec
    if wanted.stack.driver is None:
        wishes = {
            "power_limit": spec.power_limit is not None,
            "mig": spec.mig is not None,
            "ecc": spec.ecc is not None,
            "module_options": bool(spec.module_options),
        }
        ignored = [key for key, wished in wishes.items() if wished]
        if ignored:
            return [f"no driver is managed here, so nothing is set of {', '.join(ignored)}"]
    if spec.power_limit is not None and not spec.persistence:
        return [
            "power_limit with persistence = False: the driver forgets the limit when the last "
            "process leaves a GPU"
        ]
    return []
