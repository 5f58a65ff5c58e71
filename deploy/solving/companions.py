"""torchvision and torchaudio: released with a torch, compiled against one build of it.

Their wheels name torch's version but not its build, so an index may bring torchvision for CUDA 13
beside torch for CUDA 12.6, which fails at import or at the first operator. They are therefore
required at the version released with this torch, of this build. torchaudio has had no release since
torch 2.11: its wheels are those of 2.11's builds, and it refuses to be imported beside a torch of
another CUDA release (torchaudio 2.11.0, _extension/utils.py, read in the wheel 2026-11-22).
"""

from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from deploy.catalog.models import Catalogue, TorchBuild, TorchRelease
from deploy.solving.refusal import Refused, listed

NAMES = ("torchvision", "torchaudio")


def companions(extras: tuple[str, ...], release: TorchRelease) -> tuple[str, ...]:
    """The extras that are companions of torch, each at the version released with `release`.

    Raises Refused when the inventory asks for another version of one: it would not load.
    """
    return tuple(sorted(_exact(extras, release)))


def check_build(
    companions: tuple[str, ...], release: TorchRelease, build: TorchBuild, catalogue: Catalogue
) -> None:
    """Raises Refused for a companion of an older torch that has no wheel of this build."""
    for text in companions:
        requirement = Requirement(text)
        (version,) = (one.version for one in requirement.specifier)
        if canonicalize_name(requirement.name) != "torchaudio" or version == release.version:
            continue
        own = next((one for one in catalogue.torch if one.version == version), None)
        builds = [one for one in own.builds if one.machine == build.machine] if own else []
        fitting = [one for one in builds if one.build == build.build and one.pypi >= build.pypi]
        if not fitting:
            raise Refused(
                "extras",
                f"{requirement.name} {version} is the newest, and built for "
                f"{listed([one.build for one in builds]) or 'no build that is known'}: it cannot "
                f"be imported beside torch {release.version}+{build.build}",
                source="catalogue: torch; torchaudio compares CUDA releases at import",
            )


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
