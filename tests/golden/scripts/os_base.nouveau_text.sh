# nouveau must not bind the GPUs. Written by gpufleet, which keeps this file as it is.
blacklist nouveau
options nouveau modeset=0
