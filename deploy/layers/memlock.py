"""Lockable memory for sessions and services, which RDMA pins: unlimited where it is wished.

Sessions read limits.d through pam_limits when they begin; `*` there does not mean root
(limits.conf(5)). Services get systemd's default when they are started; the manager takes a new one
at daemon-reload, so nothing that runs is touched (systemd-system.conf(5)).
"""

from deploy.facts import NodeFacts
from deploy.known import known
from deploy.layers.files import file_step, remove_file
from deploy.shell import script
from deploy.steps import Command, Step, Wanted

NAME = "memlock"
SESSIONS = "/etc/security/limits.d/gpufleet-memlock.conf"
SERVICES = "/etc/systemd/system.conf.d/gpufleet-memlock.conf"

_ABOUT = "# Memory that RDMA may lock. Written by gpufleet, which keeps this file as it is.\n"
SESSIONS_TEXT = _ABOUT + "".join(
    f"{who} {kind} memlock unlimited\n" for who in ("*", "root") for kind in ("soft", "hard")
)
SERVICES_TEXT = _ABOUT + "[Manager]\nDefaultLimitMEMLOCK=infinity\n"
_RELOAD = "systemctl daemon-reload\n"


def steps(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    """Both files while it is wished, none otherwise."""
    if wanted.spec.memlock is not None:
        return [
            *file_step(NAME, "new sessions may lock all memory", facts, SESSIONS, SESSIONS_TEXT),
            *file_step(
                NAME,
                "services may lock all memory from their next start on",
                facts,
                SERVICES,
                SERVICES_TEXT,
                then=_RELOAD,
            ),
        ]
    files = known(facts, "files", facts.files)
    ours = [path for path in (SESSIONS, SERVICES) if path in files]
    if not ours:
        return []
    reload = Command(shell=script(_RELOAD), timeout_s=60)
    return [
        Step(
            layer=NAME,
            title="lockable memory is the system's own again",
            why=f"{' and '.join(ours)} exist, but memlock is not wished; what runs keeps its limit",
            commands=(*map(remove_file, ours), reload),
        )
    ]
