"""torchvision and torchaudio: released with a torch, compiled against one build of it.

Their wheels name torch's version but not its build, so an index may bring torchvision for CUDA 13
beside torch for CUDA 12.6, which fails at import or at the first operator. They are therefore
required at the version released with this torch, of this build.
"""

from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from deploy.catalog.models import TorchRelease
from deploy.solving.refusal import Refused

NAMES = ("torchvision", "torchaudio")


def companions(extras: tuple[str, ...], release: TorchRelease) -> tuple[str, ...]:
    """The extras that are companions of torch, each at the version released with `release`.

    Raises Refused when the inventory asks for another version of one: it would not load.
    """
    return tuple(sorted(_exact(extras, release)))


def others(extras: tuple[str, ...], release: TorchRelease) -> tuple[str, ...]:
    """The extras that nothing is known of here; a companion of unknown version among them."""
    return tuple(text for text in extras if not _version(text, release))


def unknown(extras: tuple[str, ...], release: TorchRelease) -> Iterator[str]:
    """Warnings about companions whose version is not in the catalogue."""
    for text in extras:
        name = canonicalize_name(Requirement(text).name)
        if name in NAMES and not _version(text, release):
            yield (
                f"{name}: the version released with torch {release.version} is not in the "
                "catalogue; it may be of another build than torch"
            )


def _exact(extras: tuple[str, ...], release: TorchRelease) -> Iterator[str]:
    for text in extras:
        version = _version(text, release)
        if not version:
            continue
        requirement = Requirement(text)
        if not requirement.specifier.contains(version):
            raise Refused(
                "extras",
                f"{text} is wished beside torch {release.version}, which {requirement.name} "
                f"{version} was released with: another one does not load there",
                source="catalogue: torch",
                unblock=(f"{requirement.name} without a version in extras",),
            )
        requirement.specifier = SpecifierSet(f"=={version}")
        yield str(requirement)


def _version(text: str, release: TorchRelease) -> str:
    name = canonicalize_name(Requirement(text).name)
    return str(getattr(release, name)) if name in NAMES else ""
