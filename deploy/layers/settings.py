"""Settings of the GPUs themselves: power limit, ECC mode, MIG instances.

ECC lasts, and takes effect with a boot (nvidia-smi manual page, -e, branch 580, 2026-11); what a
boot forgets is made again by a unit of ours (deploy/layers/boot_settings.py).
Decided from what the loaded driver says, once the wanted one is loaded; a plan that loads it first
sets them blindly, and the next probe tells. A setting that is left out of the inventory stays as
it is; only our files go.
"""

from deploy.facts import NodeFacts
from deploy.idle import MUST_BE_IDLE
from deploy.known import known
from deploy.layers import boot_settings, mig
from deploy.layers.boot_settings import LIMIT_POWER
from deploy.layers.setting_rules import answers
from deploy.record import STOPPED, recorder
from deploy.shell import assign, script
from deploy.stack import Driver
from deploy.steps import Command, Step, Wanted

NAME = "settings"

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


def steps(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    """Files for the next boot, then what is not as wished now; MIG last, for a change of its mode
    may reset the GPU, which brings a pending ECC mode about as well."""
    driver = wanted.stack.driver
    if driver is None:
        return boot_settings.steps(NAME, wanted, facts)
    return [
        *boot_settings.steps(NAME, wanted, facts),
        *_power(wanted, facts, driver),
        *_ecc(wanted, facts, driver),
        *_mig(wanted, facts, driver),
    ]


def _power(wanted: Wanted, facts: NodeFacts, driver: Driver) -> list[Step]:
    watts = wanted.spec.power_limit
    if watts is None:
        return []
    why, gpus = _BLIND, answers(wanted, facts)
    if gpus is not None:
        other = [
            f"GPU {gpu.index}: {gpu.power_limit:g} W"
            for gpu in gpus
            if gpu.power_limit is not None and round(gpu.power_limit) != watts
        ]
        if not other:
            return []
        why = f"found {', '.join(other)}"
    values = assign(version=driver.version, watts=str(watts))
    text = script(values, _LOADED, LIMIT_POWER, "limit_power")
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
    why, gpus = _BLIND, answers(wanted, facts)
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
    why, gpus = _BLIND, answers(wanted, facts)
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
