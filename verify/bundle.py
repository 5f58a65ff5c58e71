"""The bundle: everything that runs on a host, as one reproducible archive named by its content.

The checks and payloads of this folder, and beside them pytest and testinfra with what they need,
as pure Python from this installation: a host needs nothing but a Python. Equal sources and equal
installed versions give equal bytes, so that a bundle is pushed once and known by its hash.
"""

import base64
import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath

from deploy.fleet.errors import Fault, WrongInput

ROOM = Path(__file__).parent
STAYS = (
    *("__main__.py", "results.py", "expectation.py", "bundle.py", "site_checks.py"),
    *("launch.py", "runner.py", "answer.py", "judge.py", "slurm.py", "deep.py", "evidence.py"),
)
"""What of this folder the controller keeps; every other *.py, data/ and payload/ travel."""
PIECES = (
    *("__init__.py", "checks.py", "applies.py", "conftest.py", "attended.py", "onhost.py"),
    "payload/host_report.py",
)
"""Without these no check runs."""
DISTRIBUTIONS = {
    "pytest": ("pytest", "_pytest", "py.py"),
    "pluggy": ("pluggy",),
    "iniconfig": ("iniconfig",),
    "packaging": ("packaging",),
    "pygments": ("pygments",),
    "pytest-testinfra": ("testinfra",),
    "nvidia-ml-py": ("pynvml.py",),
    "exceptiongroup": ("exceptiongroup",),
    "tomli": ("tomli",),
    "typing_extensions": ("typing_extensions.py",),
}
"""Distribution -> what of it is importable. The last three are for Python 3.10 alone."""
PYGMENTS = ("diff.py", "python.py", "terminal.py", "__init__.py", "_mapping.py")
"""pytest imports two lexers and a formatter of pygments at its start; the others are 4 MB."""
MANIFEST = "MANIFEST"
WRITTEN = 315532800
"""Time of every file, 1980-01-01: tar warns of anything older."""


@dataclass(frozen=True)
class Bundle:
    """What travels."""

    files: dict[str, bytes]
    """Path from the bundle's root -> content, sorted by path; without the manifest."""

    @cached_property
    def manifest(self) -> str:
        """One line per file as sha256sum writes and checks it."""
        return "".join(
            f"{hashlib.sha256(content).hexdigest()}  {path}\n"
            for path, content in self.files.items()
        )

    @cached_property
    def id(self) -> str:
        """SHA-256 of the manifest, 64 hexadecimal digits."""
        return hashlib.sha256(self.manifest.encode()).hexdigest()

    @cached_property
    def archive(self) -> bytes:
        """All of it with the manifest, as tar.gz."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for path, content in {MANIFEST: self.manifest.encode(), **self.files}.items():
                entry = tarfile.TarInfo(path)
                entry.size, entry.mtime, entry.mode = len(content), WRITTEN, 0o644
                tar.addfile(entry, io.BytesIO(content))
        return gzip.compress(packed.getvalue(), compresslevel=6, mtime=0)

    @cached_property
    def text(self) -> str:
        """The archive as base64, which any channel carries."""
        return base64.b64encode(self.archive).decode()


@cache
def bundle() -> Bundle:
    """The bundle of this installation, built once per process.

    Raises WrongInput when a piece of it is missing here.
    """
    return build(ROOM)


def with_site(files: dict[str, bytes]) -> Bundle:
    """The bundle with a site's own files in it (verify.site_checks)."""
    return Bundle(dict(sorted({**bundle().files, **files}.items()))) if files else bundle()


def build(room: Path) -> Bundle:
    """A bundle of the checks in `room`. Raises WrongInput that names every missing piece."""
    faults: list[Fault] = []
    files = dict(_own(room, faults))
    for name, tops in DISTRIBUTIONS.items():
        files |= _vendored(name, tops, faults)
    if faults:
        raise WrongInput(faults)
    return Bundle(dict(sorted(files.items())))


def travelling(room: Path = ROOM) -> list[Path]:
    """The files of this room that go to hosts, pieces that are missing included."""
    paths = {path for path in room.glob("*.py") if path.name not in STAYS}
    paths |= set((room / "payload").glob("*.py")) | set((room / "data").glob("*.json"))
    return sorted(paths | {room / name for name in PIECES})


def _own(room: Path, faults: list[Fault]) -> Iterator[tuple[str, bytes]]:
    for path in travelling(room):
        try:
            yield f"verify/{path.relative_to(room).as_posix()}", path.read_bytes()
        except OSError as error:
            why = f"cannot be read ({error.strerror}): this installation of gpufleet is incomplete"
            faults.append(Fault(str(path), "", f"{why}; install it again"))


def _vendored(name: str, tops: tuple[str, ...], faults: list[Fault]) -> dict[str, bytes]:
    again = f"python -m pip install --force-reinstall {name}"
    try:
        found = distribution(name)
        files = {
            f"lib/{path}": Path(str(found.locate_file(path))).read_bytes()
            for path in _sources(found)
            if path.parts[0] in tops and _wanted(path)
        }
    except PackageNotFoundError:
        faults.append(Fault("verify", name, f"is not installed here: python -m pip install {name}"))
        return {}
    except OSError as error:
        faults.append(Fault("verify", name, f"is damaged here ({error}): {again}"))
        return {}
    lacking = [top for top in tops if not any(path.split("/")[1] == top for path in files)]
    if lacking:
        message = f"does not list {', '.join(lacking)} among its files here: {again}"
        faults.append(Fault("verify", name, message))
    return files


def _sources(found: Distribution) -> Iterator[PurePosixPath]:
    for path in found.files or ():
        if path.suffix == ".py" and ".." not in path.parts:
            yield path


def _wanted(path: PurePosixPath) -> bool:
    if path.parts[0] == "pygments" and len(path.parts) > 2:
        return path.name in PYGMENTS
    return "tests" not in path.parts
