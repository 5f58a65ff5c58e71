"""What the probe asks about: package names, units. One home, used by probe and parser."""

PACKAGES = (
    r"^(nvidia|libnvidia|xserver-xorg-video-nvidia|firmware-nvidia|cuda|libcuda|libcudnn|cudnn"
    r"|libnccl|libcublas|libcufft|libcurand|libcusolver|libcusparse|libnvjitlink|libnvrtc|libnpp"
    r"|libcufile|libcuobj|libnv|gds-tools"
    r"|nvlsm|nvlink|nsight|datacenter-gpu-manager|dcgm|gdrdrv|gdrcopy"
    r"|dkms$|linux-headers-|linux-image-|linux-kbuild|linux-modules-extra-"
    r"|linux-(modules|objects|signatures)-nvidia"
    r"|gcc(-[0-9]+)?$|g[+][+](-[0-9]+)?$|make$|build-essential$"
    r"|python3$|python3([.][0-9]+)?-(venv|dev)$|libpython3([.][0-9]+)?-dev$"
    r"|unattended-upgrades$|initramfs-tools$|dracut$|kmod$|mokutil$|ca-certificates$|curl$"
    r"|gnupg$|gpgv$|dpkg$|apt$|slurmd$|infiniband-diags$|gpufleet"
    r"|(dkms|a?kmod)-nvidia|xorg-x11-drv-nvidia|kernel(-[a-z0-9]+)*$|gcc-c[+][+]$"
    r"|python3([.][0-9]+)?-devel$|dnf$|dnf-automatic$|python3-dnf-plugin-versionlock$|rpm$"
    r"|epel-release|oracle-epel-release|libibumad|doca|mlnx|rdma-core$)"
)
"""POSIX extended regular expression (awk and Python read it alike) of the packages that concern
the GPU stack, its prerequisites and its pinning. Names: research provisioning 2.6, 2.9, from
NVIDIA's CUDA repositories for Debian, Ubuntu and EL, the archives of Debian and Ubuntu, RHEL, EPEL,
RPM Fusion and ELRepo, 2026-11."""

RDMA_PACKAGES = (
    r"^(rdma-core|ibverbs|lib(ibverbs|rdmacm|ibumad|ibmad|ibnetdisc|opensm|efa|fabric1?-aws)|ibacm"
    r"|infiniband-|opensm|mlnx-|mft|kernel-mft|ofed|knem|xpmem|srp-|iser|isert|doca-|efa|ucx)"
)
"""Packages of an RDMA stack (OFED, DOCA-OFED, EFA or the distribution's): once installed they are
changed by their owner only. Names: research provisioning 2.9; DOCA-Host 3.2's and the EFA
installer's package lists, 2026-11."""

GPU_PACKAGES = r"nvidia|cuda|cudnn|nccl|datacenter-gpu|nvlsm|nvsdm"
"""Found anywhere in a name, a pin or a source: it concerns the vendor's stack."""

DRIVER_PACKAGES = (
    r"^(nvidia-(kernel|dkms|open|driver|headless|legacy|tesla)|linux-modules-nvidia|cuda-drivers"
    r"|libnvidia-(compute|ml1?$|gl)|libcuda1$|(dkms|a?kmod)-nvidia|xorg-x11-drv-nvidia)"
)
"""At least one of these is installed wherever packages brought the driver."""

CANDIDATES = (
    "dkms",
    "gcc",
    "g++",
    "make",
    "python3-venv",
    "python3-dev",
    "linux-headers-amd64",
    "linux-headers-generic",
    "nvidia-open",
    "cuda-drivers",
    "nvidia-driver-cuda",
    "nvidia-kernel-open-dkms",
    "nvidia-kernel-dkms",
    "nvidia-fabricmanager",
    "nvidia-persistenced",
    "libnccl2",
    "libnccl-dev",
    "libcudnn9-cuda-12",
    "libcudnn9-cuda-13",
    "cuda-toolkit-12-9",
    "cuda-toolkit-13-0",
)
"""Packages whose candidate is asked for besides the installed ones of the vendor's stack and the
headers of the installed kernels."""

RPM_CANDIDATES = (
    "dkms",
    "gcc",
    "gcc-c++",
    "make",
    "python3-devel",
    "kernel-devel",
    "python3-dnf-plugin-versionlock",
    "epel-release",
    "kmod-nvidia-open-dkms",
    "kmod-nvidia-latest-dkms",
    "nvidia-driver-cuda",
    "nvidia-fabricmanager",
    "libnccl",
)
"""The same for rpm."""

FOREIGN_DRIVERS = (
    r"^((akmod|kmod|dkms)-nvidia(-open)?$|kmod-nvidia-[0-9]+[.][0-9]+[.][0-9]+-.*[.](x86_64|aarch64)$"
    r"|xorg-x11-drv-nvidia|nvidia-x11-drv)"
)
"""Packages of a driver that RPM Fusion (akmod-nvidia, xorg-x11-drv-nvidia), ELRepo (kmod-nvidia,
nvidia-x11-drv) or negativo17 (dkms-nvidia) made; the vendor's own conflict with them."""

SERVICES = (
    "nvidia-persistenced.service",
    "nvidia-fabricmanager.service",
    "nvidia-dcgm.service",
    "nvidia-imex.service",
    "nvidia-cdi-refresh.path",
    "nvidia-cdi-refresh.service",
    "gpufleet-gpu-settings.service",
    "nvidia-gridd.service",
    "nvidia-vgpud.service",
    "nvidia-vgpu-mgr.service",
    "slurmd.service",
    "unattended-upgrades.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dnf-automatic.timer",
    "dnf-automatic-install.timer",
    "display-manager.service",
    "docker.service",
    "containerd.service",
    "kubelet.service",
    "cloud-init.service",
)

DRIVER_DAEMONS = frozenset(
    {
        "nvidia-persistenced",
        "nv-fabricmanager",
        "nvidia-fabricmanager",
        "nv-hostengine",
        "nvidia-dcgm",
        "nvidia-imex",
        "nvidia-topologyd",
        "nvidia-cdi-refresh",
        "gpufleet-gpu-settings",
        "nvlsm",
        "nvsm",
        "dcgm",
        "dcgm-exporter",
        "nvidia-powerd",
    }
)
"""Programs and units of the driver itself: they hold GPU devices without using the GPUs. The
order in which they must stop is research provisioning 2.12 (NVIDIA gpu-driver-container)."""
