"""This machine alone, without SSH: the CPU build of torch, for a first look without a GPU.

apply needs root here (sudo is used): it installs packages and writes below /opt/gpufleet.
"""

here = (["@local"], {"torch_build": "cpu"})
