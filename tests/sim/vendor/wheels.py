"""Stub wheels of torch and the CUDA libraries it pins, and the index pages that offer them.

Names and pins: PyPI metadata of torch 2.13.0 and 2.14.1 and of cuda-toolkit 13.0.3 (read
22 Nov 2026); for cu126 pytorch's generated-linux-binary-manywheel workflow (cuDNN stays at
9.10.2.21 there). Two of the floating dependencies are here in two versions, so that a lock is worth
something: without one, the day of the installation decides (research: provisioning 2.10).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .packages import Compiled, shared_library, text_file

LINUX = "sys_platform == 'linux'"
PLATFORM = "py3-none-manylinux_2_28_x86_64"
GENERIC = "py3-none-any"


@dataclass(frozen=True)
class Wheel:
    """One wheel: metadata, importable stub or libraries, and the index variants that list it."""

    name: str
    version: str
    variants: tuple[str, ...]
    requires: tuple[str, ...] = ()
    extras: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    libraries: dict[str, Compiled] = field(default_factory=dict)
    requires_python: str = ">=3.10"
    tag: str = PLATFORM

    @property
    def stem(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}"

    @property
    def filename(self) -> str:
        return f"{self.stem}-{self.tag}.whl"

    def metadata(self) -> str:
        """METADATA as PEP 566 has it."""
        lines = [
            "Metadata-Version: 2.1",
            f"Name: {self.name}",
            f"Version: {self.version}",
            "Summary: simulated by gpufleet",
            f"Requires-Python: {self.requires_python}",
        ]
        lines += [f"Requires-Dist: {requirement}" for requirement in self.requires]
        for extra, requirements in self.extras.items():
            lines.append(f"Provides-Extra: {extra}")
            lines += [
                f"Requires-Dist: {requirement}; {LINUX} and extra == '{extra}'"
                for requirement in requirements
            ]
        return "\n".join(lines) + "\n"


# ---- CUDA libraries

# import directory below nvidia/, SONAME; CUDA 13 wheels share one directory
CU12 = {
    "nvidia-cublas-cu12": ("12.6.4.1", "cublas", "libcublas.so.12"),
    "nvidia-cuda-cupti-cu12": ("12.6.80", "cuda_cupti", "libcupti.so.12"),
    "nvidia-cuda-nvrtc-cu12": ("12.6.85", "cuda_nvrtc", "libnvrtc.so.12"),
    "nvidia-cuda-runtime-cu12": ("12.6.77", "cuda_runtime", "libcudart.so.12"),
    "nvidia-cufft-cu12": ("11.3.0.4", "cufft", "libcufft.so.11"),
    "nvidia-cufile-cu12": ("1.11.1.6", "cufile", "libcufile.so.0"),
    "nvidia-curand-cu12": ("10.3.7.77", "curand", "libcurand.so.10"),
    "nvidia-cusolver-cu12": ("11.7.1.2", "cusolver", "libcusolver.so.11"),
    "nvidia-cusparse-cu12": ("12.5.4.2", "cusparse", "libcusparse.so.12"),
    "nvidia-nvjitlink-cu12": ("12.6.85", "nvjitlink", "libnvJitLink.so.12"),
    "nvidia-nvtx-cu12": ("12.6.77", "nvtx", "libnvToolsExt.so.1"),
}
CU13 = {
    "nvidia-cublas": ("13.1.1.3", "cu13", "libcublas.so.13"),
    "nvidia-cuda-cupti": ("13.0.85", "cu13", "libcupti.so.13"),
    "nvidia-cuda-nvrtc": ("13.0.88", "cu13", "libnvrtc.so.13"),
    "nvidia-cuda-runtime": ("13.0.96", "cu13", "libcudart.so.13"),
    "nvidia-cufft": ("12.0.0.61", "cu13", "libcufft.so.12"),
    "nvidia-cufile": ("1.15.1.6", "cu13", "libcufile.so.0"),
    "nvidia-curand": ("10.4.0.35", "cu13", "libcurand.so.10"),
    "nvidia-cusolver": ("12.0.4.66", "cu13", "libcusolver.so.12"),
    "nvidia-cusparse": ("12.6.3.3", "cu13", "libcusparse.so.12"),
    "nvidia-nvjitlink": ("13.0.88", "cu13", "libnvJitLink.so.13"),
    "nvidia-nvtx": ("13.0.85", "cu13", "libnvtx3interop.so.1"),
}
OWN = [  # not part of the toolkit: name, version, variant, directory, SONAME
    ("nvidia-cudnn-cu12", "9.10.2.21", "cu126", "cudnn", "libcudnn.so.9"),
    ("nvidia-cudnn-cu13", "9.20.0.48", "cu130", "cudnn", "libcudnn.so.9"),
    ("nvidia-cudnn-cu13", "9.24.0.43", "cu130", "cudnn", "libcudnn.so.9"),
    ("nvidia-cusparselt-cu12", "0.7.1", "cu126", "cusparselt", "libcusparseLt.so.0"),
    ("nvidia-cusparselt-cu13", "0.8.1", "cu130", "cusparselt", "libcusparseLt.so.0"),
    ("nvidia-nccl-cu12", "2.29.3", "cu126", "nccl", "libnccl.so.2"),
    ("nvidia-nccl-cu13", "2.29.7", "cu130", "nccl", "libnccl.so.2"),
    ("nvidia-nccl-cu13", "2.30.7", "cu130", "nccl", "libnccl.so.2"),
    ("nvidia-nvshmem-cu12", "3.4.5", "cu126", "nvshmem", "libnvshmem_host.so.3"),
    ("nvidia-nvshmem-cu13", "3.4.5", "cu130", "nvshmem", "libnvshmem_host.so.3"),
    ("nvidia-nvjitlink", "13.5.37", "cu130", "cu13", "libnvJitLink.so.13"),
]
NEEDS = {
    "nvidia-cudnn-cu12": ("nvidia-cublas-cu12",),
    "nvidia-cudnn-cu13": ("nvidia-cublas",),
    "nvidia-cusolver-cu12": ("nvidia-cublas-cu12", "nvidia-nvjitlink-cu12", "nvidia-cusparse-cu12"),
    "nvidia-cusolver": ("nvidia-cublas", "nvidia-nvjitlink", "nvidia-cusparse"),
    "nvidia-cusparse-cu12": ("nvidia-nvjitlink-cu12",),
    "nvidia-cusparse": ("nvidia-nvjitlink",),
    "nvidia-cufft-cu12": ("nvidia-nvjitlink-cu12",),
    "nvidia-cufft": ("nvidia-nvjitlink",),
}
EXTRAS = (
    *("cublas", "cudart", "cufft", "cufile", "cupti", "curand", "cusolver", "cusparse"),
    *("nvjitlink", "nvrtc", "nvtx"),
)


def cuda_library(name: str, version: str, variant: str, directory: str, soname: str) -> Wheel:
    """A wheel that holds one shared library, which says its version where the real one does."""
    numbers = [int(part) for part in version.split(".")[:3]]
    answer = numbers[0] * 10000 + numbers[1] * 100 + numbers[2]
    query = {"libcudnn.so.9": "cudnnGetVersion", "libnccl.so.2": "ncclGetVersion"}.get(soname)
    library = shared_library(
        soname, version, (query, answer) if query else None, out_parameter=directory == "nccl"
    )
    return Wheel(
        name,
        version,
        (variant,),
        requires=NEEDS.get(name, ()),
        libraries={f"nvidia/{directory}/lib/{soname}": library},
        requires_python=">=3",
    )


def toolkit(version: str, variant: str, parts: dict[str, tuple[str, str, str]]) -> Wheel:
    """cuda-toolkit: nothing but extras that pin the parts; nvjitlink floats from 13 on."""
    stems = {extra: f"-{extra}" for extra in EXTRAS} | {"cudart": "-runtime"}
    extras = {}
    for extra, stem in stems.items():
        (name,) = (n for n in parts if re.sub(r"-cu12$", "", n).endswith(stem))
        floats = extra == "nvjitlink" and variant == "cu130"
        wanted = f">={parts[name][0]},<14" if floats else f"=={parts[name][0]}.*"
        extras[extra] = (name + wanted,)
    tag = "py2.py3-none-any"
    return Wheel("cuda-toolkit", version, (variant,), extras=extras, tag=tag, requires_python=">=3")


# ---- torch

STUB = {
    "torch/__init__.py": "torch_init.py",
    "torch/cuda/__init__.py": "torch_cuda.py",
    "torch/cuda/nccl.py": "torch_nccl.py",
    "torch/backends/__init__.py": "torch_backends.py",
    "torch/backends/cudnn.py": "torch_cudnn.py",
}
"""Module of the stub -> its text in `files`."""
ARCHITECTURES = {
    "cu126": "sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90",
    "cu130": "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120 compute_120",
}
"""torch.cuda.get_arch_list() of the real builds (deploy/catalog/torch.toml names the sources)."""

COMMON = ("filelock", "typing-extensions>=4.10.0", "setuptools>=77.0.3", "sympy>=1.13.3",
          "networkx>=2.5.1", "jinja2", "fsspec>=0.8.5")  # fmt: skip


def torch(version: str, cuda: str, pins: tuple[str, ...]) -> Wheel:
    """A torch wheel of one build, e.g. 2.13.0+cu130."""
    variant = f"cu{cuda.replace('.', '')}"
    local = f"{version}+{variant}"
    return Wheel(
        "torch",
        local,
        (variant,),
        requires=COMMON + tuple(f"{pin}; {LINUX}" for pin in pins),
        texts={
            module: text_file(
                name, **({"VERSION": local, "CUDA": cuda, "ARCHITECTURES": ARCHITECTURES[variant]})
            ).content
            for module, name in STUB.items()
        },
        libraries={"torch/lib/libtorch_cuda.so": torch_library(local, variant)},
    )


def torch_library(version: str, variant: str) -> Compiled:
    """The library of torch that loads cuDNN, NCCL, cuBLAS and the runtime with it.

    From the other wheels' folders, after LD_LIBRARY_PATH. The real one has an older kind of entry
    (DT_RPATH) that goes before LD_LIBRARY_PATH, and it is cuDNN which opens its own parts by
    LD_LIBRARY_PATH later; here one library stands for both.
    """
    major = variant[2:4]
    parts = CU13 if major == "13" else CU12
    folders = dict.fromkeys(
        [*(place for _, place, _ in parts.values()), "cudnn", "nccl", "cusparselt", "nvshmem"]
    )
    needed = ("libcudnn.so.9", "libnccl.so.2", f"libcublas.so.{major}", f"libcudart.so.{major}")
    return Compiled(
        "stublib.c",
        (("LIBRARY", f'"libtorch_cuda.so {version}"'),),
        "libtorch_cuda.so",
        needed,
        tuple(f"$ORIGIN/../../nvidia/{folder}/lib" for folder in folders),
    )


def wheels() -> list[Wheel]:
    """Every stub wheel."""
    extras = ",".join(EXTRAS)
    found = [
        torch("2.13.0", "12.6", (f"cuda-toolkit[{extras}]==12.6.3", "cuda-bindings>=12.9.4,<13",
              "nvidia-cudnn-cu12==9.10.2.21", "nvidia-cusparselt-cu12==0.7.1",
              "nvidia-nccl-cu12==2.29.3", "nvidia-nvshmem-cu12==3.4.5", "triton==3.7.1")),
        torch("2.13.0", "13.0", (f"cuda-toolkit[{extras}]==13.0.3", "cuda-bindings>=13.0.3,<14",
              "nvidia-cudnn-cu13==9.20.0.48", "nvidia-cusparselt-cu13==0.8.1",
              "nvidia-nccl-cu13==2.29.7", "nvidia-nvshmem-cu13==3.4.5", "triton==3.7.1")),
        torch("2.14.1", "13.0", (f"cuda-toolkit[{extras}]==13.0.3", "cuda-bindings>=13.0.3,<14",
              "nvidia-cudnn-cu13==9.24.0.43", "nvidia-cusparselt-cu13==0.8.1",
              "nvidia-nccl-cu13==2.30.7", "nvidia-nvshmem-cu13==3.4.5", "triton~=3.8.0")),
        toolkit("12.6.3", "cu126", CU12),
        toolkit("13.0.3.0", "cu130", CU13),
    ]  # fmt: skip
    for parts, variant in ((CU12, "cu126"), (CU13, "cu130")):
        found += [cuda_library(name, v, variant, d, s) for name, (v, d, s) in parts.items()]
    found += [cuda_library(*row) for row in OWN]
    for name, version, variants in (
        ("triton", "3.7.1", ("cu126", "cu130")),
        ("triton", "3.8.0", ("cu130",)),
        ("cuda-bindings", "12.9.4", ("cu126",)),
        ("cuda-bindings", "13.0.3", ("cu130",)),
        ("cuda-bindings", "13.5.0", ("cu130",)),
        ("cuda-pathfinder", "1.9.0", ("cu126", "cu130")),
    ):
        found.append(
            Wheel(
                name,
                version,
                variants,
                requires=("cuda-pathfinder>=1.1,<2",) if name == "cuda-bindings" else (),
                texts={f"{name.replace('-', '/')}/__init__.py": f'__version__ = "{version}"\n'},
            )
        )
    return found
