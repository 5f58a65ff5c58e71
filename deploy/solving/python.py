"""Which Python an environment gets: the host's own, or one that uv brings."""

from dataclasses import dataclass

from deploy.catalog.models import TorchRelease, numbers
from deploy.solving.parts import Ground
from deploy.solving.refusal import Refused, listed
from deploy.stack import Reason


@dataclass(frozen=True)
class Python:
    """A Python for one release of torch, as a minor version."""

    version: str
    managed: bool
    """uv brings it."""
    reason: Reason


def own_python(ground: Ground) -> str:
    """The host's own Python, or the one that its distribution brings. Raises Refused when it
    could not be read."""
    seen = ground.seen
    if seen.python_unknown:
        raise Refused(
            "unknown-facts",
            f"needed facts could not be read: python ({seen.python_unknown})",
            source="unknown never means fine",
        )
    return seen.python or seen.row(ground.catalogue).python


def python_for(ground: Ground, release: TorchRelease, own: str) -> Python:
    """The Python for a release: as wished, else the host's own where the release has wheels for
    it, else `steady` of what uv brings. Raises Refused."""
    wish = ground.spec.python
    if wish and wish not in release.pythons:
        raise no_python(release, f"{wish} is wished")
    if own == wish or (not wish and own in release.pythons):
        row = ground.seen.row(ground.catalogue)
        because = "the host's own python3" if ground.seen.python else f"{row.title} brings it"
        return Python(own, False, _said(own, because, "facts: python"))
    if ground.spec.env == "venv":
        raise _without_uv(release, wish, own)
    if wish:
        because = f"the inventory asks for it; the host's own is {own}, so uv brings it"
        return Python(wish, True, _said(wish, because, "inventory key python"))
    version = steady(release)
    because = (
        f"torch {release.version} has no wheel for the host's own {own}, so uv brings one: the "
        "newest but one that this torch has wheels for, because other wheels lag behind the newest"
    )
    return Python(version, True, _said(version, because, "catalogue: torch"))


def steady(release: TorchRelease) -> str:
    """The Python that uv brings where nothing else decides: the newest but one of a release."""
    by_age = sorted(release.pythons, key=numbers)
    return by_age[-2] if len(by_age) > 1 else by_age[-1]


def no_python(release: TorchRelease, found: str) -> Refused:
    """Refused: this release has no wheel for a Python."""
    return Refused(
        "python",
        f"torch {release.version} has wheels for Python {listed(list(release.pythons))}, {found}",
        source="catalogue: torch",
    )


def _without_uv(release: TorchRelease, wish: str | None, own: str) -> Refused:
    if not wish:
        return no_python(release, f'the host has {own} and env = "venv" brings no other')
    return Refused(
        "python",
        f'Python {wish} is wished and the host\'s own is {own}; env = "venv" brings no other',
        source="inventory keys python and env",
        unblock=('env = "uv"', f'python = "{own}"'),
    )


def _said(choice: str, because: str, source: str) -> Reason:
    return Reason(part="python", choice=choice, because=because, source=source)
