"""CUDA toolkits as the vendor packages them: versioned names side by side, one /usr/local/cuda.

Shapes: research provisioning 2.9. `cuda-toolkit-X-Y` is a meta with `>=` dependencies; the package
`cuda-toolkit-X-Y-config-common` offers /usr/local/cuda and /usr/local/cuda-X to
update-alternatives; `cuda-toolkit-config-common` puts /usr/local/cuda on the loader's path.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from . import scripts
from .packages import Link, Package, Payload, Text, shared_library

LDCONFIG = ("activate-noawait ldconfig",)


@dataclass(frozen=True)
class Toolkit:
    """One toolkit and the versions of its parts (source: the vendor's redistrib JSON)."""

    major: int
    minor: int
    version: str
    nvcc: str
    cudart: str
    nvrtc: str
    built: str
    libraries: dict[str, tuple[str, str]]  # package stem: (version, SONAME)

    @property
    def dashed(self) -> str:
        return f"{self.major}-{self.minor}"

    @property
    def root(self) -> str:
        return f"/usr/local/cuda-{self.major}.{self.minor}"


TOOLKITS = (
    Toolkit(
        12, 9, "12.9.1", "12.9.86", "12.9.79", "12.9.86", "Tue_May_27_02:21:03_PDT_2025",
        {
            "libcublas": ("12.9.1.4", "libcublas.so.12"),
            "libcufft": ("11.4.1.4", "libcufft.so.11"),
            "libcurand": ("10.3.10.19", "libcurand.so.10"),
            "libcusolver": ("11.7.5.82", "libcusolver.so.11"),
            "libcusparse": ("12.5.10.65", "libcusparse.so.12"),
            "libnvjitlink": ("12.9.86", "libnvJitLink.so.12"),
        },
    ),
    Toolkit(
        13, 0, "13.0.2", "13.0.88", "13.0.96", "13.0.88", "Wed_Aug_20_01:58:59_PM_PDT_2025",
        {
            "libcublas": ("13.1.0.3", "libcublas.so.13"),
            "libcufft": ("12.0.0.61", "libcufft.so.12"),
            "libcurand": ("10.4.0.35", "libcurand.so.10"),
            "libcusolver": ("12.0.4.66", "libcusolver.so.12"),
            "libcusparse": ("12.6.3.3", "libcusparse.so.12"),
            "libnvjitlink": ("13.0.88", "libnvJitLink.so.13"),
        },
    ),
)  # fmt: skip


def packages() -> list[Package]:
    """Both toolkits and what they share."""
    found = [package for toolkit in TOOLKITS for package in of_toolkit(toolkit)]
    found.append(config_common("cuda-toolkit-config-common", "000_cuda.conf", "/usr/local/cuda"))
    for major in sorted({toolkit.major for toolkit in TOOLKITS}):
        name = f"cuda-toolkit-{major}-config-common"
        found.append(config_common(name, f"988_cuda-{major}.conf", f"/usr/local/cuda-{major}"))
    return found


def config_common(name: str, conf: str, root: str) -> Package:
    """A package that puts one toolkit link on the loader's path."""
    return Package(
        name,
        f"{max(toolkit.cudart for toolkit in TOOLKITS)}-1",
        "Common config package for CUDA Toolkit",
        architecture="all",
        section="multiverse/devel",
        payload={f"/etc/ld.so.conf.d/{conf}": Text(f"{root}/targets/x86_64-linux/lib\n")},
        triggers=LDCONFIG,
    )


def of_toolkit(toolkit: Toolkit) -> list[Package]:
    """The packages of one toolkit."""
    target = f"{toolkit.root}/targets/x86_64-linux"

    def package(stem: str, version: str, description: str, **more: object) -> Package:
        more.setdefault("section", "multiverse/devel")
        return Package(f"{stem}-{toolkit.dashed}", f"{version}-1", description, **more)  # type: ignore[arg-type]

    def at_least(*parts: tuple[str, str]) -> dict[str, str]:
        return {"Depends": ", ".join(f"{s}-{toolkit.dashed} (>= {v})" for s, v in parts)}

    def shared(soname: str, version: str) -> dict[str, Payload]:
        stem = soname.split(".so.")[0]
        return {
            f"{target}/lib/{stem}.so.{version}": shared_library(soname, version),
            f"{target}/lib/{soname}": Link(f"{stem}.so.{version}"),
        }

    def dev(soname: str, header: str) -> dict[str, Payload]:
        return {
            f"{target}/lib/{soname.split('.so.')[0]}.so": Link(soname),
            f"{target}/include/{header}": Text(f"/* simulated {header} */\n"),
        }

    config = f"cuda-toolkit-{toolkit.dashed}-config-common"
    commons = f"{config}, cuda-toolkit-{toolkit.major}-config-common, cuda-toolkit-config-common"
    found = [
        Package(
            config,
            f"{toolkit.cudart}-1",
            f"Common config package for CUDA Toolkit {toolkit.major}.{toolkit.minor}",
            architecture="all",
            section="multiverse/devel",
            payload={
                f"{toolkit.root}/lib64": Link("targets/x86_64-linux/lib"),
                f"{toolkit.root}/include": Link("targets/x86_64-linux/include"),
            },
            scripts=scripts.alternatives(
                ("/usr/local/cuda", "cuda", toolkit.root, toolkit.major * 10 + toolkit.minor),
                (
                    f"/usr/local/cuda-{toolkit.major}",
                    f"cuda-{toolkit.major}",
                    toolkit.root,
                    toolkit.major * 10 + toolkit.minor,
                ),
            ),
        ),
        package(
            "cuda-cudart",
            toolkit.cudart,
            "CUDA Runtime native Libraries",
            relations={"Depends": commons},
            payload=shared(f"libcudart.so.{toolkit.major}", toolkit.cudart),
            triggers=LDCONFIG,
        ),
        package(
            "cuda-cudart-dev",
            toolkit.cudart,
            "CUDA Runtime native dev links, headers",
            relations=at_least(("cuda-cudart", toolkit.cudart)),
            payload=dev(f"libcudart.so.{toolkit.major}", "cuda_runtime.h"),
        ),
        package(
            "cuda-nvrtc",
            toolkit.nvrtc,
            "NVRTC native runtime libraries",
            relations={"Depends": commons},
            payload=shared(f"libnvrtc.so.{toolkit.major}", toolkit.nvrtc),
            triggers=LDCONFIG,
        ),
        package(
            "cuda-nvcc",
            toolkit.nvcc,
            "CUDA nvcc",
            relations={"Depends": f"build-essential, {commons}"},
            payload={f"{toolkit.root}/bin/nvcc": nvcc(toolkit)},
        ),
        package(
            "cuda-nvml-dev",
            toolkit.nvcc,
            "NVML native dev links, headers",
            relations={"Depends": config},
        ),
        package(
            "cuda-toolkit",
            toolkit.version,
            f"CUDA Toolkit {toolkit.major}.{toolkit.minor} meta-package",
            relations=at_least(
                ("cuda-compiler", toolkit.version),
                ("cuda-libraries", toolkit.version),
                ("cuda-libraries-dev", toolkit.version),
                ("cuda-nvml-dev", toolkit.nvcc),
            ),
            payload={f"{toolkit.root}/version.json": version_json(toolkit)},
        ),
        package(
            "cuda-compiler",
            toolkit.version,
            "CUDA compiler meta-package",
            relations=at_least(("cuda-nvcc", toolkit.nvcc)),
        ),
    ]
    libraries = [("cuda-cudart", toolkit.cudart), ("cuda-nvrtc", toolkit.nvrtc)]
    developed = [("cuda-cudart-dev", toolkit.cudart)]
    for stem, (version, soname) in toolkit.libraries.items():
        libraries.append((stem, version))
        developed.append((f"{stem}-dev", version))
        found += [
            package(
                stem,
                version,
                f"{stem} native runtime libraries",
                relations={"Depends": commons},
                payload=shared(soname, version),
                triggers=LDCONFIG,
            ),
            package(
                f"{stem}-dev",
                version,
                f"{stem} native dev links, headers",
                relations=at_least((stem, version)),
                payload=dev(soname, f"{stem.removeprefix('lib')}.h"),
            ),
        ]
    for stem, parts in (("cuda-libraries", libraries), ("cuda-libraries-dev", developed)):
        description = f"{stem} meta-package"
        found.append(package(stem, toolkit.version, description, relations=at_least(*parts)))
    return found


def nvcc(toolkit: Toolkit) -> Text:
    """A compiler that knows its version and refuses to compile."""
    release = f"{toolkit.major}.{toolkit.minor}"
    return Text(
        "#!/bin/sh\n"
        'case "$1" in --version|-V) ;; *)\n'
        "\techo 'nvcc: simulated by gpufleet, it compiles nothing' >&2; exit 1 ;;\n"
        "esac\n"
        "cat <<'END'\n"
        "nvcc: NVIDIA (R) Cuda compiler driver\n"
        "Copyright (c) 2005-2025 NVIDIA Corporation\n"
        f"Built on {toolkit.built}\n"
        f"Cuda compilation tools, release {release}, V{toolkit.nvcc}\n"
        f"Build cuda_{release}.r{release}/compiler.simulated\n"
        "END\n",
        0o755,
    )


def version_json(toolkit: Toolkit) -> Text:
    """/usr/local/cuda-X.Y/version.json in the vendor's form, of the parts that exist here."""
    parts = {
        "cuda": ("CUDA SDK", toolkit.version),
        "cuda_cudart": ("CUDA Runtime (cudart)", toolkit.cudart),
        "cuda_nvcc": ("CUDA NVCC", toolkit.nvcc),
        "cuda_nvrtc": ("CUDA NVRTC", toolkit.nvrtc),
    }
    for stem, (version, _) in toolkit.libraries.items():
        parts[stem] = (f"CUDA {stem.removeprefix('lib')}", version)
    content = {key: {"name": name, "version": version} for key, (name, version) in parts.items()}
    return Text(json.dumps(content, indent=3) + "\n")
