"""Distributions, keys and names in the catalogue: what is known of each; rows that cannot be."""

import copy
import tomllib
from importlib.resources import files
from typing import Any

import pytest

from deploy.catalog import CatalogueError, load
from deploy.catalog.load import FILES, assemble

Tables = dict[str, dict[str, Any]]


@pytest.fixture
def tables() -> Tables:
    folder = files("deploy.catalog")
    return {name: tomllib.loads((folder / f"{name}.toml").read_text()) for name in FILES}


@pytest.mark.parametrize(
    ("os_id", "version_id", "name"),
    [
        ("debian", "12", "debian12"),
        ("debian", "13", "debian13"),
        ("ubuntu", "22.04", "ubuntu2204"),
        ("ubuntu", "24.04", "ubuntu2404"),
        ("ubuntu", "26.04", "ubuntu2604"),
        ("rhel", "8.10", "rhel8"),
        ("rocky", "9.8", "rhel9"),
        ("almalinux", "9", "rhel9"),
        ("ol", "10.1", "rhel10"),
        ("amzn", "2023", "amzn2023"),
        ("sles", "15.7", "sles15"),
        ("rocky", "90", None),
        ("rocky", "7.9", None),
        ("ubuntu", "24.10", None),
        ("ubuntu", "24", None),
        ("debian", "1", None),
        ("debian", "", None),
        ("azurelinux", "3.0", None),
        ("centos", "9", None),
        ("", "", None),
    ],
)
def test_a_system_is_known_by_its_os_release(os_id: str, version_id: str, name: str | None) -> None:
    found = load().distribution(os_id, version_id)
    assert (found.name if found else None) == name


def test_every_machine_type_has_its_address_and_wheels() -> None:
    for row in load().distributions:
        assert set(row.arch) == {"x86_64", "aarch64"}
        assert row.arch["aarch64"].repository == "sbsa"
        expected = ("amd64", "arm64") if row.kind == "apt" else ("x86_64", "aarch64")
        assert (row.arch["x86_64"].packages, row.arch["aarch64"].packages) == expected
        assert row.arch["aarch64"].wheels == "aarch64-manylinux_2_28"


@pytest.mark.parametrize(
    ("name", "file", "fingerprint"),
    [
        ("debian12", "3bf863cc.pub", "EB693B3035CD5710E231E123A4B469963BF863CC"),
        ("ubuntu2404", "3bf863cc.pub", "EB693B3035CD5710E231E123A4B469963BF863CC"),
        ("debian13", "8793F200.pub", "02182E60104FCDC26EAE1B8597A5D4CB8793F200"),
        ("ubuntu2604", "60DF8A40.pub", "14BAFBC7562AD710CA04E69905FBB6DA60DF8A40"),
        ("rhel8", "D42D0685.pub", "610C7B14E068A878070DA4E99CD0A493D42D0685"),
        ("rhel9", "D42D0685.pub", "610C7B14E068A878070DA4E99CD0A493D42D0685"),
        ("rhel10", "CDF6BA43.pub", ""),
    ],
)
def test_each_distribution_has_its_own_key(name: str, file: str, fingerprint: str) -> None:
    key = load().key_of(name)
    assert (key.file, key.fingerprint) == (file, fingerprint)
    assert key.fingerprint.endswith(key.name.upper() if key.fingerprint else "")


@pytest.mark.parametrize(
    ("name", "kernel", "headers"),
    [
        ("debian12", "6.1.0-40-amd64", ("linux-headers-6.1.0-40-amd64",)),
        ("ubuntu2404", "6.8.0-90-generic", ("linux-headers-6.8.0-90-generic",)),
        ("rhel9", "5.14.0-687.el9.x86_64", ("kernel-devel-5.14.0-687.el9.x86_64",
                                            "kernel-headers")),
        ("rhel9", "6.12.0-100.28.2.2.el9uek.x86_64",
         ("kernel-uek-devel-6.12.0-100.28.2.2.el9uek.x86_64", "kernel-headers")),
        ("rhel9", "5.14.0-687.el9.aarch64+64k",
         ("kernel-64k-devel-5.14.0-687.el9.aarch64+64k", "kernel-headers")),
        ("amzn2023", "6.1.150-174.amzn2023.x86_64",
         ("kernel-devel-6.1.150-174.amzn2023.x86_64", "kernel-headers")),
        ("amzn2023", "6.12.46-66.amzn2023.x86_64",
         ("kernel6.12-devel-6.12.46-66.amzn2023.x86_64", "kernel6.12-headers")),
    ],
)  # fmt: skip
def test_headers_of_a_kernel(name: str, kernel: str, headers: tuple[str, ...]) -> None:
    assert load().named(name).base.headers_of(kernel) == headers


@pytest.mark.parametrize(
    ("name", "origin", "branch", "module", "fabric"),
    [
        ("debian12", "vendor", 570, "nvidia-kernel-open-dkms", "nvidia-fabricmanager-570"),
        ("debian12", "vendor", 580, "nvidia-kernel-open-dkms", "nvidia-fabricmanager"),
        ("debian12", "distribution", 535, "nvidia-open-kernel-dkms", None),
        ("ubuntu2204", "vendor", 570, "nvidia-dkms-570-open", "nvidia-fabricmanager-570"),
        ("ubuntu2204", "vendor", 580, "nvidia-dkms-580-open", "nvidia-fabricmanager"),
        ("ubuntu2204", "vendor", 590, "nvidia-dkms-open", "nvidia-fabricmanager"),
        ("ubuntu2204", "distribution", 580, "nvidia-headless-no-dkms-580-server-open",
         "nvidia-fabricmanager-580"),
        ("rhel9", "vendor", 570, "kmod-nvidia-open-dkms", "nvidia-fabric-manager"),
        ("rhel9", "vendor", 580, "kmod-nvidia-open-dkms", "nvidia-fabricmanager"),
        ("sles15", "vendor", 580, "nvidia-open-driver-G06", "nvidia-fabricmanager"),
        ("sles15", "vendor", 595, "nvidia-open-driver-G07", "nvidia-fabricmanager"),
    ],
)  # fmt: skip
def test_names_by_branch(
    name: str, origin: Any, branch: int, module: str, fabric: str | None
) -> None:
    names = load().driver_names(name, origin, branch)
    assert names
    assert names.module("open") == module
    assert (names.fabric_nvswitch or (None,))[0] == fabric
    assert not any("{branch}" in value for _, value in names if isinstance(value, str) and value)


@pytest.mark.parametrize(
    ("name", "origin", "branch"),
    [
        ("debian13", "distribution", 535),  # it has 550
        ("ubuntu2404", "distribution", 610),  # no -server packages of a feature branch
        ("rhel9", "distribution", 580),
        ("sles15", "vendor", 570),
    ],
)
def test_branches_that_an_origin_does_not_have(name: str, origin: Any, branch: int) -> None:
    assert load().driver_names(name, origin, branch) is None


def test_what_was_run_is_claimed_and_nothing_more() -> None:
    """A row of this list needs a test on that distribution in tests/fleet."""
    proven = {
        (row.name, machine, arch.proven)
        for row in load().distributions
        for machine, arch in row.arch.items()
        if arch.proven != "never run"
    }
    assert proven == {
        ("debian12", "x86_64", "simulated"),
        ("ubuntu2404", "x86_64", "simulated"),
        ("rhel9", "x86_64", "simulated"),
    }


def row(tables: Tables, file: str, table: str, **match: Any) -> dict[str, Any]:
    return next(
        one
        for one in tables[file][table]
        if all(one.get(name) == value for name, value in match.items())
    )


def change(file: str, table: str, match: dict[str, Any], **values: Any) -> Any:
    return lambda tables: row(tables, file, table, **match).update(values)


def again(file: str, table: str, match: dict[str, Any], **values: Any) -> Any:
    def apply(tables: Tables) -> None:
        tables[file][table].append({**copy.deepcopy(row(tables, file, table, **match)), **values})

    return apply


def machine(name: str, kind: str, **values: Any) -> Any:
    return lambda tables: row(tables, "distributions", "distribution", name=name)["arch"][
        kind
    ].update(values)


DEBIAN, UBUNTU = {"name": "debian12"}, {"name": "ubuntu2404"}
NEWER = {"scheme": "ubuntu-vendor", "first": 590}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (change("distributions", "distribution", DEBIAN, base="nothing"), "no base nothing"),
        (change("distributions", "distribution", DEBIAN, libraries="x"), "no libraries x"),
        (change("distributions", "distribution", DEBIAN, key="x"), "debian12: no key x"),
        (change("distributions", "distribution", DEBIAN, origins={"vendor": "x"}),
         "no driver scheme x"),
        (change("distributions", "distribution", DEBIAN, origins={"other": "x"}), "distributions"),
        (change("distributions", "distribution", DEBIAN, ids=[]), "distributions"),
        (change("distributions", "distribution", DEBIAN, kind="pacman"), "kind"),
        (change("distributions", "distribution", DEBIAN, source="x"), "names source x"),
        (change("distributions", "distribution", DEBIAN, own_versions="("), "debian12: '('"),
        (change("distributions", "distribution", DEBIAN, version="13"), "13') is there twice"),
        (again("distributions", "distribution", DEBIAN), "debian12 is there twice"),
        (again("distributions", "distribution", UBUNTU, name="u", version="24"), "also matches"),
        (change("distributions", "key", {"name": "3bf863cc"}, fingerprint="EB69"), "fingerprint"),
        (again("distributions", "key", {"name": "3bf863cc"}), "key 3bf863cc is there twice"),
        (machine("debian12", "aarch64", repository="aarch64"), "aarch64 is not aarch64"),
        (machine("debian12", "x86_64", wheels="aarch64-manylinux_2_28"), "cannot run wheels"),
        (machine("debian12", "x86_64", proven="yes"), "proven"),
        (change("packages", "driver", NEWER, first=580), "overlap"),
        (change("packages", "driver", NEWER, last=580), "no branch lies in it"),
        (change("packages", "driver", NEWER, only=[570]), "names branches outside of it"),
        (change("packages", "driver", NEWER, pinning="pin-{brnch}"), "{brnch}"),
        (change("packages", "driver", NEWER, pinning="pin-{"), "pinning"),
        (change("packages", "driver", NEWER, prebuilt_open="modules-{branch}"), "no {kernel}"),
        (change("packages", "driver", NEWER, stream_open="a:b", module_open=""), "stream for open"),
        (change("packages", "base", {"name": "el"}, headers=["kernel-devel-{release}"]),
         "{release}"),
        (change("packages", "base", {"name": "el"}, headers_by_kernel={"(": []}), "'('"),
        (change("packages", "libraries", {"name": "deb"}, cuda=["cuda-{release}"]), "{release}"),
        (change("packages", "support", {"part": "dcgm"}, source="x"), "names source x"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_true_are_refused_by_name(
    tables: Tables, damage: Any, said: str
) -> None:
    damage(tables)
    with pytest.raises(CatalogueError) as error:
        assemble(tables)
    assert said in str(error.value)
