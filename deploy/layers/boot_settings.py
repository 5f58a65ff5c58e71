"""GPU settings that a boot forgets: a script that makes them again, and the unit that runs it.

Power limit and MIG instances end with the driver's presence (nvidia-smi manual page, -pl; MIG user
guide; branch 580, 2026-11). What steps set now and what a boot sets is the same shell text.
"""

from deploy.facts import NodeFacts
from deploy.known import known
from deploy.layers import mig
from deploy.layers.files import file_step, in_place
from deploy.layers.services import ENABLED
from deploy.shell import PREAMBLE, assign, script, words
from deploy.steps import Command, Step, Wanted

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

LIMIT_POWER = """\
limit_power() {
    every=$(nvidia-smi --query-gpu=index --format=csv,noheader) || return 1
    refused=
    for gpu in $every; do nvidia-smi -i "$gpu" -pl "$watts" || refused="$refused $gpu"; done
    [ -z "$refused" ] || { echo "GPU$refused: no power limit of $watts W" >&2; return 1; }
}
"""
"""One GPU that refuses keeps no other from its limit: what feeds them relies on it."""

_ENABLE = f"systemctl daemon-reload\nsystemctl enable {UNIT}.service\n"


def boot_text(wanted: Wanted) -> str:
    """The script that a boot runs, "" when nothing has to be set again."""
    spec = wanted.spec
    parts = []
    if spec.power_limit is not None:
        parts += [assign(watts=str(spec.power_limit)), LIMIT_POWER, "limit_power || late=1\n"]
    if spec.mig:
        parts += [assign(layout=mig.layout(spec.mig)), mig.SHELL, "partition_all\n"]
    if not parts or wanted.stack.driver is None:
        return ""
    about = "# GPU settings that a boot forgets. Written by gpufleet, which keeps it as it is.\n"
    return "#!/bin/sh\n" + about + PREAMBLE + "".join(parts) + '[ -z "${late:-}" ]\n'


def steps(layer: str, wanted: Wanted, facts: NodeFacts) -> list[Step]:
    """Both files while something has to be set at boot, none otherwise."""
    text = boot_text(wanted)
    if not text:
        return _given_up(layer, facts)
    found = file_step(layer, "GPU settings for every boot are written", facts, SCRIPT, text)
    title = "GPU settings are made at every boot"
    service = known(facts, "services", facts.services).get(f"{UNIT}.service")
    disabled = service is None or service.enabled not in ENABLED
    if in_place(facts, UNIT_PATH, UNIT_TEXT) and disabled:
        why = f"{UNIT} is {service.enabled if service else 'unknown to systemd'}"
        enable = Command(shell=script(_ENABLE), timeout_s=60)
        return [*found, Step(layer=layer, title=title, why=why, commands=(enable,))]
    return found + file_step(layer, title, facts, UNIT_PATH, UNIT_TEXT, then=_ENABLE)


def _given_up(layer: str, facts: NodeFacts) -> list[Step]:
    files = known(facts, "files", facts.files)
    ours = [path for path in (UNIT_PATH, SCRIPT) if path in files]
    if not ours:
        return []
    text = (
        f"systemctl disable {UNIT}.service || :\nrm -f -- {words(ours)}\nsystemctl daemon-reload\n"
    )
    return [
        Step(
            layer=layer,
            title="no GPU setting of ours is made at boot",
            why=f"{' and '.join(ours)} exist, but neither power_limit nor mig is wished; what is "
            "set now stays until the driver is loaded again",
            commands=(Command(shell=script(text), timeout_s=60),),
        )
    ]
