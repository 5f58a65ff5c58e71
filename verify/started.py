"""How training is started on a host: as whom, and through what. Pure.

Travels to the host: standard library only, Python 3.10. Every check that trains goes through the
fixture `train` (verify/conftest.py), which asks here, so that there is one way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
