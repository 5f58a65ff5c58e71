"""The whole of gpufleet in a few minutes, by its own commands: `make demo`.

With root (or passwordless sudo) on four simulated hosts; without, or with `python -m tests.demo
inventories/local.py`, on this machine alone in a folder below build/. Every command is shown as
one would type it, and its outcome is checked: the demo ends with 0 only when all was as it says.
"""
