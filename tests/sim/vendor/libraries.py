"""cuDNN, NCCL and DCGM as the vendor packages them (research: provisioning 2.9)."""

from __future__ import annotations

from . import scripts
from .driver import LIB, daemon
from .packages import Link, Package, Text, shared_library, text_file

LDCONFIG = ("activate-noawait ldconfig",)

CUDNN = {
    "9.10.2.21": (12,),  # what the cu126 wheels of torch 2.9-2.14 pin
    "9.20.0.48": (12, 13),
    "9.24.0.43": (12, 13),
    "9.26.0.51": (12, 13),
}
"""cuDNN version: CUDA majors it is packaged for."""

NCCL = ("2.29.3-1+cuda12.9", "2.29.7-1+cuda13.0", "2.30.7-1+cuda12.9", "2.30.7-1+cuda13.0")

DCGM = "1:4.5.2-1"
DCGM_3 = "1:3.3.9-1"


def packages() -> list[Package]:
    """All of them."""
    found = [
        package
        for version, majors in CUDNN.items()
        for major in majors
        for package in cudnn(version, major)
    ]
    found += [
        Package(name, f"{version}-1", "cuDNN meta-package", section="multiverse/devel",
                relations={"Depends": f"cudnn9-cuda-{max(majors)} (>= {version})"})
        for version, majors in CUDNN.items()
        if 13 in majors
        for name in ("cudnn", "cudnn9")
    ]  # fmt: skip
    return found + [p for version in NCCL for p in nccl(version)] + dcgm(DCGM) + [dcgm_3()]


def cudnn(version: str, major: int) -> list[Package]:
    """One cuDNN for one CUDA major: libraries and headers exactly, the meta with `>=`.

    Majors live side by side; update-alternatives decides which one the loader's path shows.
    """
    package_version = f"{version}-1"
    numbers = [int(part) for part in version.split(".")]
    answer = numbers[0] * 10000 + numbers[1] * 100 + numbers[2]
    home = f"{LIB}/libcudnn/{major}"
    headers = f"/usr/include/x86_64-linux-gnu/libcudnn/{major}"
    full = f"libcudnn.so.{'.'.join(map(str, numbers[:3]))}"
    built = shared_library("libcudnn.so.9", version, ("cudnnGetVersion", answer))

    def name(kind: str) -> str:
        return f"libcudnn9{kind}-cuda-{major}"

    def exactly(kind: str) -> str:
        return f"{name(kind)} (= {package_version})"

    return [
        Package(
            name(""),
            package_version,
            f"cuDNN runtime libraries for CUDA {major}",
            section="multiverse/libs",
            source="cudnn",
            payload={f"{home}/{full}": built, f"{home}/libcudnn.so.9": Link(full)},
            scripts=scripts.alternatives(
                (f"{LIB}/libcudnn.so.9", "libcudnn_so", f"{home}/libcudnn.so.9", major)
            ),
            triggers=LDCONFIG,
        ),
        Package(
            name("-headers"),
            package_version,
            f"cuDNN header files for CUDA {major}",
            section="multiverse/libs",
            source="cudnn",
            payload={
                f"{headers}/cudnn_version.h": Text(
                    "".join(
                        f"#define CUDNN_{part} {number}\n"
                        for part, number in zip(
                            ("MAJOR", "MINOR", "PATCHLEVEL"), numbers[:3], strict=True
                        )
                    )
                )
            },
            scripts=scripts.alternatives(
                (
                    "/usr/include/cudnn_version.h",
                    "cudnn_version_h",
                    f"{headers}/cudnn_version.h",
                    major,
                )
            ),
        ),
        Package(
            name("-dev"),
            package_version,
            f"cuDNN development libraries for CUDA {major}",
            section="multiverse/libs",
            source="cudnn",
            relations={"Depends": f"{exactly('')}, {exactly('-headers')}"},
            payload={f"{home}/libcudnn.so": Link("libcudnn.so.9")},
        ),
        Package(
            f"cudnn9-cuda-{major}",
            package_version,
            f"cuDNN for CUDA {major} meta-package",
            section="multiverse/devel",
            relations={
                "Depends": ", ".join(
                    f"{name(kind)} (>= {version})" for kind in ("", "-dev", "-headers")
                )
            },
        ),
    ]


def nccl(package_version: str) -> list[Package]:
    """libnccl2 and libnccl-dev; the CUDA they were built for is part of the version."""
    version = package_version.split("-")[0]
    major, minor, patch = (int(part) for part in version.split("."))
    answer = ("ncclGetVersion", major * 10000 + minor * 100 + patch)
    built = shared_library("libnccl.so.2", package_version, answer, out_parameter=True)
    header = f"#define NCCL_MAJOR {major}\n#define NCCL_MINOR {minor}\n#define NCCL_PATCH {patch}\n"
    return [
        Package(
            "libnccl2",
            package_version,
            "NVIDIA Collective Communication Library (NCCL) Runtime",
            source="nccl",
            section="libs",
            payload={f"{LIB}/libnccl.so.{version}": built,
                     f"{LIB}/libnccl.so.2": Link(f"libnccl.so.{version}")},
            triggers=LDCONFIG,
        ),
        Package(
            "libnccl-dev",
            package_version,
            "NVIDIA Collective Communication Library (NCCL) Development Files",
            source="nccl",
            section="libdevel",
            relations={"Depends": f"libnccl2 (= {package_version})"},
            payload={
                f"{LIB}/libnccl.so": Link("libnccl.so.2"),
                "/usr/include/nccl.h": Text(header),
            },
        ),
    ]  # fmt: skip


def dcgm_3() -> Package:
    """DCGM 3, which 4 replaces: another name, the same programs and unit."""
    return Package(
        "datacenter-gpu-manager",
        DCGM_3,
        "NVIDIA Data Center GPU Manager 3",
        section="devel",
        payload={
            "/usr/bin/nv-hostengine": daemon("HOSTENGINE", "3.3.9"),
            "/lib/systemd/system/nvidia-dcgm.service": text_file("nvidia-dcgm.service"),
        },
        scripts=scripts.service("nvidia-dcgm.service", enabled=False),
    )


def dcgm(version: str) -> list[Package]:
    """DCGM 4: the host engine and its CUDA plugins."""
    core = "datacenter-gpu-manager-4-core"
    plain = version.split(":")[-1].split("-")[0]
    command = Text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then\n'
        f'\techo "dcgmi  version: {plain} (simulated by gpufleet)"; exit 0\nfi\n'
        "echo 'dcgmi: simulated by gpufleet, it diagnoses nothing' >&2\nexit 1\n",
        0o755,
    )
    return [
        Package(
            core,
            version,
            "NVIDIA Data Center GPU Manager",
            source="datacenter-gpu-manager-4",
            section="devel",
            payload={
                "/usr/bin/nv-hostengine": daemon("HOSTENGINE", plain),
                "/usr/bin/dcgmi": command,
                "/lib/systemd/system/nvidia-dcgm.service": text_file("nvidia-dcgm.service"),
            },
            scripts=scripts.service("nvidia-dcgm.service", enabled=False),
        ),
        *(
            Package(
                f"datacenter-gpu-manager-4-cuda{major}",
                version,
                f"NVIDIA Data Center GPU Manager libraries for CUDA {major}",
                source="datacenter-gpu-manager-4",
                section="devel",
                relations={"Depends": f"{core} (= {version})"},
            )
            for major in (12, 13)
        ),
    ]
