"""The parser against what the probe really printed, and against what a bad host may print."""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.facts import NodeFacts
from deploy.probing.probe import BadProbe, escaped, parse
from tests.capture import NONCE, PLACE

CAPTURES = sorted(path.stem for path in PLACE.glob("*.txt"))


def text(name: str) -> str:
    return (PLACE / f"{name}.txt").read_text()


def facts(name: str) -> NodeFacts:
    return parse("h1", NONCE, text(name))


@pytest.mark.parametrize("name", CAPTURES)
def test_a_real_answer_is_read(name: str) -> None:
    found = facts(name)
    assert found.os is not None
    assert found.packaging == {"rocky": "dnf"}.get(found.os.id, "apt")
    assert found.kernel is not None
    assert found.packages is not None
    assert found.packages["dpkg" if found.packaging == "apt" else "rpm"].state == "ii"
    assert_unknown_is_explained(found)


def assert_unknown_is_explained(found: NodeFacts) -> None:
    for part in NodeFacts.model_fields:
        if getattr(found, part) is None:
            assert found.unknown[part], f"{part} is unknown for no reason"


def test_a_bare_gpu_host() -> None:
    found = facts("bare-hgx-h100")
    assert found.root
    assert found.unknown == {}
    assert found.pci is not None
    kinds = sorted((device.device, device.pci_class) for device in found.pci)
    assert kinds == [("22a3", "068000")] * 4 + [("2330", "030200")] * 8
    assert found.gpu_users == found.slurm_jobs == found.foreign == found.environments == ()
    assert found.candidates is not None
    assert found.candidates["gcc"].candidate == "4:12.2.0-3"
    assert found.candidates["gcc"].origins == ("http://mirror.example/debian",)
    assert found.candidates["gcc"].pin == "500"
    assert found.candidates["linux-headers-generic"].candidate == ""
    assert found.services is not None
    assert found.services["nvidia-persistenced.service"].load == "not-found"
    assert found.disks is not None
    assert set(found.disks) == {"/", "/boot", "/usr", "/var/lib", "/opt", "/tmp"}
    assert found.container == "systemd-nspawn"


def test_a_host_in_use_that_somebody_else_manages() -> None:
    found = facts("foreign-busy-v100")
    assert found.modules is not None
    assert found.kernel is not None
    assert (found.modules.loaded_version, found.modules.loaded_flavour) == ("570.133.20", "closed")
    assert found.kernel.next == found.kernel.running + "+next"
    assert [module.kernel for module in found.modules.installed] == [found.kernel.running]
    assert [(user.user, user.command) for user in found.gpu_users or ()] == [("trainer", "python3")]
    assert [job.job for job in found.slurm_jobs or ()] == ["4711"]
    assert [foreign.owner for foreign in found.foreign or ()] == ["runfile"]
    assert found.dpkg is not None
    assert found.dpkg.lock_holder.startswith("unattended-upgr (pid ")
    assert found.secure_boot == "enabled"


def test_a_provisioned_host() -> None:
    found = facts("provisioned-hgx-h100")
    assert found.unknown == {}
    assert found.modules is not None
    assert found.kernel is not None
    assert (found.modules.loaded_version, found.modules.loaded_flavour) == ("580.178.04", "open")
    assert found.kernel.headers == (found.kernel.running,)
    assert found.foreign == found.gpu_users == ()  # the driver's daemons are no users
    assert found.services is not None
    assert found.services["nvidia-fabricmanager.service"].active == "active"
    assert found.packages is not None
    assert found.packages["nvidia-fabricmanager"].version == "580.178.04-1"
    assert found.cuda is not None
    assert (found.cuda.link, found.cuda.toolkits) == ("/usr/local/cuda-13.0", ("13.0",))
    assert found.environments is not None
    (environment,) = found.environments
    assert environment.current
    assert environment.complete
    assert environment.manifest == environment.found
    assert environment.wheels["torch"] == "2.13.0+cpu"
    assert found.pins
    assert found.files is not None
    assert "/etc/modprobe.d/gpufleet-nouveau.conf" in found.files
    assert found.state


def test_a_provisioned_host_of_enterprise_linux() -> None:
    found = facts("el9-provisioned")
    assert found.unknown == {}
    assert found.os is not None
    assert (found.os.id, found.os.version_id) == ("rocky", "9.6")
    assert found.streams == {"nvidia-driver": "595-open"}
    assert found.versionlocks == ("libnccl-0:2.29.7-1+cuda13.0.*",)
    assert found.own_versionlocks is not None
    assert "nvidia-driver-cuda-3:595.91.07-1.el9.*" in found.own_versionlocks
    assert found.packages is not None
    assert found.packages["kmod-nvidia-open-dkms"].version == "3:595.91.07-1.el9"
    assert found.packages["nvidia-fabricmanager"].version == "595.91.07-1"
    assert found.packages["libnccl"].held
    assert found.sources is not None
    assert [source.path.rpartition("/")[2] for source in found.sources] == [
        "epel.repo",
        "gpufleet.repo",
    ]
    assert found.candidates is not None
    assert found.candidates["dkms"].origins == ("epel",)
    assert found.foreign == ()
    assert found.tools is not None
    assert {"dkms", "versionlock"} <= set(found.tools)


def test_a_host_of_ubuntu_with_signed_modules() -> None:
    found = facts("ubuntu-signed")
    assert found.unknown == {}
    assert found.kernel is not None
    assert found.packages is not None
    module = f"linux-modules-nvidia-580-server-open-{found.kernel.running}"
    assert found.packages[module].state == "ii"
    assert found.packages["libnvidia-compute-580-server"].version.startswith("580.159.04-0ubuntu")
    assert (found.streams, found.own_versionlocks) == ({}, ())


def test_a_plain_user_says_what_it_could_not_see() -> None:
    found = facts("plain-user")
    assert not found.root
    assert found.unknown["root"] == "the probe ran as trainer, not as root"
    assert "dpkg.lock_holder" in found.unknown
    # There is no GPU device yet, so nobody can be using one.
    assert found.gpu_users == ()


def test_users_of_devices_are_unknown_without_root() -> None:
    answer = text("plain-user").replace("|self\n", "|devices\n|self\n", 1)
    answer = re.sub(r"done users (\d+)", lambda m: f"done users {int(m[1]) + 1}", answer)
    found = parse("h1", NONCE, answer)
    assert found.gpu_users is None
    assert "only root" in found.unknown["gpu_users"]


def test_a_hostile_host_is_read_and_stays_text() -> None:
    found = facts("hostile")
    assert found.os is not None
    assert found.os.pretty_name.startswith("Debian $(touch /tmp/owned)")
    assert found.dpkg is not None
    assert found.dpkg.interrupted
    assert "libnvidia-ml1" in found.dpkg.broken
    assert escaped(found.model_dump_json()) == found.model_dump_json()


def test_control_characters_do_not_survive() -> None:
    evil = GOOD.replace(
        "|os PRETTY_NAME=", "|os PRETTY_NAME=\x1b]0;x\x07\N{RIGHT-TO-LEFT OVERRIDE}"
    )
    found = parse("h1", NONCE, evil)
    assert found.os is not None
    assert found.os.pretty_name.startswith("\\x1b]0;x\\x07\\u202e")


GOOD = text("bare-hgx-h100")
BEGIN = GOOD.index(f"{NONCE} begin")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "is empty"),
        ("Last login: never\n", "never began (found 'Last login: never')"),
        (GOOD[: len(GOOD) // 2], "breaks off"),
        (GOOD[: GOOD.rindex(f"{NONCE} end")], "breaks off"),
        (GOOD.replace("|running ", "motd\n|running "), "other output is mixed into it"),
        (GOOD.replace("|running ", "|forged x\n|running "), "lost or gained lines"),
        (GOOD.replace(" begin 2 ", " begin 1 "), "version 1, wanted 2"),
        (GOOD.replace(" begin 2 0 root", " begin 1 0"), "first line is damaged"),
        (GOOD.replace(f"{NONCE} part state", f"{NONCE} part pci"), "out of place"),
        (GOOD.replace(f"{NONCE} end 19", f"{NONCE} end 18"), "out of place"),
        (GOOD + "x" * 3_000_000, "characters"),
        (GOOD.replace(NONCE, "gpufleet-ffffffffffffffff"), "never began"),
        (f"\n{NONCE} begin 2 0 root\n{NONCE} nowhere-to-write\n", "none of /dev/shm"),
        (f"\n{NONCE} begin 2 0 root\n{NONCE} end 0\n", "part system is missing"),
    ],
    ids=range(14),
)
def test_an_answer_that_is_none(answer: str, reason: str) -> None:
    with pytest.raises(BadProbe, match=re.escape(reason)) as caught:
        parse("h1", NONCE, answer)
    assert str(caught.value).startswith("h1: ")


def test_noise_before_and_after_is_no_harm() -> None:
    noisy = f"Welcome!\n|forged\nno newline at the end{GOOD}bye\n"
    assert parse("h1", NONCE, noisy) == parse("h1", NONCE, GOOD)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("late", "took longer than its time limit"),
        ("huge", "printed more than its limit"),
        ("died", "was killed"),
        ("3", "there is no such tool"),
        ("7", "failed with 7"),
    ],
)
def test_a_part_that_failed_is_unknown_and_nothing_else_is(status: str, reason: str) -> None:
    found = parse("h1", NONCE, GOOD.replace("part disks 0", f"part disks {status}"))
    assert found.disks is None
    assert reason in found.unknown["disks"]
    assert found.model_copy(update={"disks": None, "unknown": {}}) == parse(
        "h1", NONCE, GOOD
    ).model_copy(update={"disks": None})


def test_without_packages_nobody_can_say_who_manages_the_driver() -> None:
    answer = text("foreign-busy-v100").replace("part packages 0", "part packages late")
    found = parse("h1", NONCE, answer.replace("|path ", "|nothing "))
    assert found.foreign is None
    assert found.unknown["foreign"]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damage_is_noticed_or_harmless(data: st.DataObject) -> None:
    """Cut, drop, double, swap or change lines anywhere: facts, unknown parts or BadProbe."""
    lines = GOOD[BEGIN:].split("\n")
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(0, max(0, len(lines) - 1)))
        kind = data.draw(st.sampled_from(["cut", "drop", "double", "swap", "change", "insert"]))
        if kind == "cut":
            lines = lines[:index]
        elif kind == "drop":
            del lines[index : index + 1]
        elif kind == "double":
            lines[index:index] = lines[index : index + 1]
        elif kind == "swap" and index + 1 < len(lines):
            lines[index], lines[index + 1] = lines[index + 1], lines[index]
        elif kind == "change" and index < len(lines):
            at = data.draw(st.integers(0, len(lines[index])))
            lines[index] = lines[index][:at] + data.draw(st.text(max_size=5)) + lines[index][at:]
        elif kind == "insert":
            lines.insert(index, data.draw(st.text(max_size=40)))
    try:
        found = parse("h1", NONCE, "\n" + "\n".join(lines))
    except BadProbe:
        return
    dumped = found.model_dump_json()
    assert escaped(dumped) == dumped
    assert_unknown_is_explained(found)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300), st.text(max_size=300))
def test_any_text_is_refused(before: str, after: str) -> None:
    for answer in (before, f"{before}\n{NONCE} begin 2 0 root\n{after}"):
        with pytest.raises(BadProbe):
            parse("h1", NONCE, answer)


def test_captures_name_no_package_mirror() -> None:
    assert len(CAPTURES) >= 4
    for name in CAPTURES:
        assert set(re.findall(r"https?://([a-z0-9.-]+)/debian", text(name))) <= {"mirror.example"}
