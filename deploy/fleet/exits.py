"""Exit codes of every gpufleet command (one meaning each, for scripts and schedulers)."""

OK = 0
"""Nothing failed, and all that was asked was looked at."""
FAILED = 1
"""Something failed, hung or is blocked."""
WRONG_INPUT = 2
"""Inventory, lock or options are wrong; nothing was run."""
CHANGES_PENDING = 3
"""`plan --check`: at least one host would change."""
NOT_LOOKED_AT = 4
"""Nothing failed, but something asked could not be looked at: unreachable, unknown or busy."""
