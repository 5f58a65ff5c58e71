"""Stub packages become signed .rpm files in a repository: rpmbuild, rpmsign, createrepo_c.

One spec file makes many packages, so that a repository of some hundred takes seconds; a second
version of a name goes into a second spec file.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from . import deb
from .packages import Compiled, Link, Package, Payload, Text

TOOLS = ("rpm", "createrepo-c", "gpg", "gpg-agent")
"""Debian packages that building a repository of rpms needs; gpg only makes its key."""

_MACROS = {
    "_binary_payload": "w0.gzdio",  # no compression: the files are tiny and there are many
    "_build_name_fmt": "%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
    "__os_install_post": "%{nil}",
    "debug_package": "%{nil}",
    "_buildhost": "localhost",
    "use_source_date_epoch_as_buildtime": "1",
    "clamp_mtime_to_source_date_epoch": "1",
}


@dataclass(frozen=True)
class Rpm:
    """One package. Relations are rpm's own syntax; scriptlets are shell."""

    name: str
    version: str
    release: str
    summary: str
    epoch: int = 0
    arch: str = "x86_64"
    requires: tuple[str, ...] = ()
    recommends: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    obsoletes: tuple[str, ...] = ()
    payload: Mapping[str, Payload] = field(default_factory=dict)
    post: str = ""
    preun: str = ""
    postun: str = ""

    @property
    def nevra(self) -> str:
        """As module metadata names an artifact."""
        return f"{self.name}-{self.epoch}:{self.version}-{self.release}.{self.arch}"


def signing_key(file: Path, owner: str) -> bytes:
    """A key for rpm repositories, generated once and kept in `file` (mode 600).

    A plain RSA key that signs itself, as the vendor's own: rpm 4.18 imports none of those that
    Sequoia generates.
    """
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="gpg-") as home:
            gpg = ["gpg", "--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback"]
            gpg += ["--passphrase", ""]
            deb.run([*gpg, "--quick-generate-key", owner, "rsa3072", "sign", "never"])
            partial = file.with_suffix(f".{os.getpid()}")
            partial.touch(0o600)
            deb.run([*gpg, "--yes", "--output", str(partial), "--export-secret-keys"])
            deb.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"])
            partial.rename(file)
    return file.read_bytes()


def from_deb(package: Package, rename: Mapping[str, str], lib: tuple[str, str]) -> Rpm:
    """A package of the vendor's that differs between the systems in form only.

    `rename` maps words of package names, `lib` the library folder. Maintainer scripts run as on
    Debian: configured after installation, removed when the last version goes.
    """

    def named(name: str) -> str:
        for old, new in rename.items():
            name = name.replace(old, new)
        return name

    def usr(path: str) -> str:
        return f"/usr{path}" if path.startswith("/lib/") else path

    version, _, release = package.version.rpartition("-")
    epoch, _, version = version.rpartition(":")
    post = "/sbin/ldconfig\n" if package.triggers else ""
    if "postinst" in package.scripts:
        post += f"set -- configure\n{package.scripts['postinst']}"
    preun = ""
    if "prerm" in package.scripts:
        preun = f'[ "$1" = 0 ] || exit 0\nset -- remove\n{package.scripts["prerm"]}'
    relations = [
        one.strip().replace("(", "").replace(")", "")
        for one in package.relations.get("Depends", "").split(",")
        if one.strip() and one.strip() != "build-essential"
    ]
    return Rpm(
        named(package.name),
        version,
        release,
        package.description,
        epoch=int(epoch or 0),
        arch="noarch" if package.architecture == "all" else "x86_64",
        requires=tuple(named(one) for one in relations),
        payload={usr(path).replace(*lib): what for path, what in package.payload.items()},
        post=post.replace(*lib),
        preun=preun.replace(*lib),
        postun="/sbin/ldconfig\n" if package.triggers else "",
    )


def build_all(
    rpms: Iterable[Rpm], artefacts: dict[Compiled, Path], directory: Path, workers: int
) -> None:
    """Write every package into `directory`, unsigned."""
    generations: list[list[Rpm]] = []
    for rpm in rpms:
        free = next((g for g in generations if all(one.name != rpm.name for one in g)), None)
        if free is None:
            generations.append([rpm])
        else:
            free.append(rpm)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda g: _build(g, artefacts, directory), generations))


def _build(rpms: list[Rpm], artefacts: dict[Compiled, Path], directory: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="rpm-", dir=directory) as work:
        here = Path(work)
        for rpm in rpms:
            _lay_out(rpm, artefacts, here / "files" / rpm.name)
        spec = here / "simulated.spec"
        spec.write_text(_spec(rpms, here / "files"))
        macros = {**_MACROS, "_topdir": work, "_builddir": work, "_rpmdir": str(directory)}
        defines = [f"--define={name} {value}" for name, value in macros.items()]
        deb.run(["rpmbuild", "-bb", "--quiet", *defines, f"--buildroot={work}/root", str(spec)])


def _spec(rpms: list[Rpm], files: Path) -> str:
    """One spec file for packages of different names; the main package of it is never built."""
    text = "Name: simulated\nVersion: 1\nRelease: 1\nSummary: none\nLicense: none\n"
    text += "AutoReqProv: no\n%description\nnone\n%install\nmkdir -p %{buildroot}\n"
    text += f"for one in {files}/*/; do cp -a $one. %{{buildroot}}/; done\n"
    for rpm in rpms:
        text += f"%package -n {rpm.name}\nSummary: {rpm.summary} (simulated)\n"
        text += f"Version: {rpm.version}\nRelease: {rpm.release}\nAutoReqProv: no\n"
        text += f"Epoch: {rpm.epoch}\n" if rpm.epoch else ""
        text += "BuildArch: noarch\n" if rpm.arch == "noarch" else ""
        for tag in ("requires", "recommends", "provides", "conflicts", "obsoletes"):
            text += "".join(f"{tag.capitalize()}: {one}\n" for one in getattr(rpm, tag))
        text += f"%description -n {rpm.name}\nSimulated.\n%files -n {rpm.name}\n"
        for path, what in rpm.payload.items():
            if path.startswith("/etc/"):
                text += f"%config(noreplace) {path}\n"
            else:
                mode = "-" if isinstance(what, Link) else f"{what.mode:o}"
                text += f"%attr({mode}, root, root) {path}\n"
        for phase in ("post", "preun", "postun"):
            if script := getattr(rpm, phase):
                text += f"%{phase} -n {rpm.name}\n{script.replace('%', '%%')}\n"
    return text


def _lay_out(rpm: Rpm, artefacts: dict[Compiled, Path], root: Path) -> None:
    root.mkdir(parents=True)
    for path, content in rpm.payload.items():
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            target.symlink_to(content.target)
        elif isinstance(content, Text):
            target.write_text(content.content)
        else:
            shutil.copyfile(artefacts[content], target)


def index(directory: Path, key_file: Path, modules: str = "") -> None:
    """Sign every package, write repodata beside them, with `modules` (YAML), and sign that."""
    sign = f"{sys.executable} {sys.executable} {Path(__file__).with_name('sign.py')} {key_file}"
    files = sorted(str(file) for file in directory.glob("*.rpm"))
    deb.run(  # what is signed already stays as it is
        ["rpmsign", "--define=_gpg_name simulated", f"--define=__gpg_sign_cmd {sign} "
         "%{__signature_filename} %{__plaintext_filename}", "--addsign", *files]
    )  # fmt: skip
    deb.run(["createrepo_c", "--quiet", "--revision=1", str(directory)])
    if modules:
        with tempfile.TemporaryDirectory(dir=directory) as work:
            (Path(work) / "modules.yaml").write_text(modules)
            listed = f"{work}/modules.yaml"
            deb.run(["modifyrepo_c", "--mdtype=modules", listed, str(directory / "repodata")])
    metadata = directory / "repodata/repomd.xml"
    signature = metadata.with_name("repomd.xml.asc")
    deb.run([sys.executable, str(Path(__file__).with_name("sign.py")), str(key_file),
             str(signature), str(metadata), "--armor"])  # fmt: skip
