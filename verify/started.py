"""How training is started on a host: as whom, and through what. Pure.

Travels to the host: standard library only, Python 3.10. Every check that trains goes through the
fixture `train` (verify/conftest.py), which asks here, so that there is one way.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from verify.checks import MARK
from verify.training import Unusable, parsed

FREE_S = 20
"""How long a job may wait for its node: what is in use for longer is not ours to load."""
START_S = 30
"""Beyond that: slurmctld's answers, the prolog, and srun's own start and end."""
END_S = 5
"""What within.py needs inside a job beside its command's own seconds."""
UNPRIVILEGED = "nobody"
"""Whom training runs as when the checks run as root and nobody was asked for or logged in."""

_ACTIVATE = """\
env=$1; shift; PATH=$env/bin:$PATH; export PATH; unset PYTHONHOME
if [ -f "$env/pyvenv.cfg" ]; then VIRTUAL_ENV=$env; export VIRTUAL_ENV; fi
if [ -d "$env/conda-meta" ]; then
CONDA_PREFIX=$env CONDA_DEFAULT_ENV=$env CONDA_SHLVL=1
export CONDA_PREFIX CONDA_DEFAULT_ENV CONDA_SHLVL
for script in "$env"/etc/conda/activate.d/*.sh; do [ ! -r "$script" ] || . "$script"; done
fi
exec "$@"
"""


class CannotStart(Exception):  # noqa: N818 - an answer, not a fault
    """Training cannot be started as asked; what was found, what is wanted, what helps.

    `verdict` is fail where the host lacks what was asked for, not-run where it is taken now.
    """

    def __init__(self, found: str, wanted: str, again: str = "", verdict: str = "fail") -> None:
        super().__init__(f"{found}; wanted: {wanted}" + (f"; {again}" if again else ""))
        self.found, self.wanted, self.again, self.verdict = found, wanted, again, verdict


@dataclass(frozen=True)
class Way:
    """How a training command is started."""

    user: str = ""
    """Whom it becomes; "" stays who the checks run as."""
    session: bool = False
    """With that user's own home and limits, as a login of it has them."""
    via: str = ""
    """slurm, or "" for no scheduler."""


def way(*, root: bool, me: str, asked: str, login: str, uid: int | None, via: str) -> Way:
    """The way for checks that run as `me`, with or without root's rights.

    `asked` is the user of --as or "", `login` who logged in, `uid` that of `asked` (None: there is
    no such user). Training never becomes root: root's limits, homes and rights are no job's, and
    an environment's code is not root's to run. Raises CannotStart.
    """
    if asked and uid is None:
        raise CannotStart(
            f"no user {asked} on this host", f"the user {asked}", "--as USER names one that is"
        )
    if not root:
        if asked not in ("", me, login):
            again = f"log in as {asked}, or let the checks become root"
            raise CannotStart(f"the checks run as {me}", f"root, to become {asked}", again)
        return Way(via=via)
    if asked and uid == 0:
        found = f"{asked} is root (uid 0)"
        raise CannotStart(found, "a user without its rights", "--as USER names one")
    user = asked or (login if login != "root" else "") or UNPRIVILEGED
    return Way(user=user, session=user != UNPRIVILEGED, via=via)


def arguments(of: Way) -> dict[str, Any]:
    """What verify/payload/within.py is told of a way, as arguments of `there.within`."""
    return {"user": of.user, "session": of.session, "login": True}


def activated(env: str) -> list[str]:
    """Words in front of a command that run it as where a venv or conda environment is active.

    Sets what their `activate` sets (venv: VIRTUAL_ENV; conda: CONDA_PREFIX, CONDA_DEFAULT_ENV and
    CONDA_SHLVL; both: PATH), and sources a conda environment's etc/conda/activate.d, which its
    packages fill: code of the environment's owner, so only for who runs its Python anyway, and
    never as root. In bash, which those scripts are written for.
    """
    return ["/bin/bash", "-c", _ACTIVATE, "activate", env]


def job(
    root: str, python: str, seconds: float, command: list[str], name: str
) -> tuple[float, list[str]]:
    """A command as a job of this very node: seconds that it takes at most, and its words.

    `root` and `python` are the bundle's. Inside the job within.py holds the command to `seconds`,
    so that its document is that of a command that was started directly.
    """
    payload = f"{root}/verify/payload"
    inside = [python, "-I", "-S", "-B", f"{payload}/within.py", f"{seconds:g}", "--", *command]
    # Inside, within.py needs as long again as it takes to end what does not end by itself.
    question = json.dumps({"seconds": seconds + END_S, "free_s": FREE_S, "name": name})
    words = [python, "-I", "-S", "-B", f"{payload}/slurm_job.py", question, "--", *inside]
    return seconds + END_S + FREE_S + START_S, words


def of_job(said: dict[str, Any]) -> dict[str, Any]:
    """What within.py says of the command inside the job, from what it says of slurm_job.py.

    Raises CannotStart when there was no job, or nothing of use came out of it.
    """
    again = "scontrol show node; sinfo -R; --as USER names who has jobs here"
    wanted = "this host, free, as a job of Slurm"
    answer = _line(said["out"])
    if said["rc"] != 0 or answer is None:
        why = str(said["err"]).strip()[-200:] or "it said nothing"
        verdict = "hung" if said["hung"] else "not-run"
        raise CannotStart(f"slurm_job.py gave no answer: {why}", wanted, verdict=verdict)
    state, reason = answer.get("state"), str(answer.get("reason"))[:300]
    if state != "ran":
        verdict = {"refused": "fail", "late": "hung"}.get(str(state), "not-run")
        raise CannotStart(reason, wanted, again, verdict)
    inside = answer.get("said")
    if not isinstance(inside, dict) or not _is_document(inside):
        raise CannotStart("what came out of the job cannot be read", wanted, again)
    told = str(answer.get("err"))[:400]  # an end for lack of memory is told here alone
    return {
        **inside,
        "err": f"{inside['err']}\nsrun: {told}" if inside["rc"] != 0 else inside["err"],
    }


def _is_document(said: dict[str, Any]) -> bool:
    texts = all(isinstance(said.get(key), str) for key in ("out", "err", "stage"))
    rc = said.get("rc", "")
    return texts and isinstance(said.get("hung"), bool) and (rc is None or type(rc) is int)


def _line(text: str) -> dict[str, Any] | None:
    """The object of the one line of a payload, None when there is none, or several."""
    lines = [line for line in text.splitlines() if line.startswith(MARK)]
    try:
        return parsed(lines[0][len(MARK) :]) if len(lines) == 1 else None
    except Unusable:
        return None


@dataclass(frozen=True)
class Given:
    """What a process is given that is started as training is (verify/payload/limits.py)."""

    uid: int
    user: str
    cpus: int
    host_cpus: int
    host_memory: int
    memory: int | None
    """Bytes that its control groups allow; None for no bound, as in all that follow."""
    gpus: int | None
    """None: nothing hides a GPU."""
    memlock: int | None
    nofile: int | None
    address_space: int | None
    job: str
    """Slurm's number of the job that it runs in, "" outside any."""

    def line(self, env: str) -> str:
        """For the report: as whom, where and with what training was started."""
        memory = "all memory" if self.memory is None else f"{self.memory >> 20} MiB of memory"
        locked = "unlimited" if self.memlock is None else f"{self.memlock >> 10} KiB"
        files = "unlimited" if self.nofile is None else str(self.nofile)
        words = [
            f"training starts as {self.user or self.uid}"
            + (f" in job {self.job}" * bool(self.job)),
            f"{self.cpus} of {self.host_cpus} processors, {memory}",
            f"locked memory {locked}, open files {files}",
        ]
        return "; ".join(words + [f"environment {env}"] * bool(env))


_FORM: dict[str, tuple[type, ...]] = {
    "uid": (int,), "user": (str,), "cpus": (int,), "host_cpus": (int,), "host_memory": (int,),
    "memory": (int, type(None)), "gpus": (int, type(None)), "job": (str,), "limits": (dict,),
}  # fmt: skip


def given(said: dict[str, Any]) -> Given:
    """The answer of limits.py in what within.py says of it. Raises training.Unusable."""
    answer = _line(str(said["out"]))
    if said["hung"]:
        raise Unusable("it never came back", hung=True)
    if said["rc"] != 0 or answer is None:
        last = " | ".join(str(said["err"]).strip().splitlines()[-3:])[-300:]
        raise Unusable(f"exit {said['rc']}: {last or 'it said nothing'}")
    limits = answer.get("limits")
    numbers = limits if isinstance(limits, dict) else {}
    wrong = [
        key
        for key, kinds in _FORM.items()
        if not isinstance(answer.get(key), kinds) or isinstance(answer.get(key), bool)
    ]
    wrong += [key for key in ("memlock", "nofile", "as") if not _size(numbers.get(key, ""))]
    if wrong:
        raise Unusable(f"its answer has no usable {', '.join(wrong)}")
    return Given(
        **{key: answer[key] for key in _FORM if key != "limits"},
        memlock=numbers["memlock"],
        nofile=numbers["nofile"],
        address_space=numbers["as"],
    )


def _size(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)
