"""Who holds the GPUs, looked at once more on the host, right before a step that would hurt them.

Plan and apply know the users of the GPUs from the probe; between the probe and a step a job may
have begun.
"""

from deploy.interest import DRIVER_DAEMONS

BECAME_BUSY = 75
"""Exit status of a command that changed nothing because somebody began to use the GPUs
(EX_TEMPFAIL of sysexits.h)."""

SERVICES = (
    "nvidia-dcgm",
    "dcgm-exporter",
    "nvidia-imex",
    "nvidia-fabricmanager",
    "nvidia-persistenced",
)
"""Units that hold the module and are stopped, in this order, before it is unloaded, and started
again. Source: unit names of the vendor's driver, DCGM and IMEX packages; unload order of NVIDIA's
gpu-driver-container (research: provisioning 2.6, 2.9, 2.12)."""

MUST_BE_IDLE = f"""\
holders=$(find /proc/[0-9]*/fd -lname '/dev/nvidia*' 2>/dev/null |
    sed -n 's,^/proc/\\([0-9]*\\)/.*,\\1,p' | sort -un)
for pid in $holders; do
    unit=$(sed -n 's,^[0-9]*:[^:]*:/system\\.slice/\\([^/]*\\)\\.service$,\\1,p' \\
        "/proc/$pid/cgroup" 2>/dev/null | tail -n 1)
    case " {" ".join(sorted(DRIVER_DAEMONS))} " in *" ${{unit:-none}} "*) continue ;; esac
    [ -d "/proc/$pid" ] || continue
    echo "pid $pid ($(tr -d '\\n' <"/proc/$pid/comm" 2>/dev/null || :)) of" \\
        "$(stat -c %U "/proc/$pid" 2>/dev/null || :) holds a GPU: nothing was changed" >&2
    exit {BECAME_BUSY}
done
"""
"""Shell text that ends the script with `BECAME_BUSY` when a user holds a GPU device. Needs root."""
