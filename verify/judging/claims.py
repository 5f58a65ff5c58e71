"""Checks that the controller judges, over all hosts and their past: their claims. Data."""

from verify.checks import Check

CLAIMS: tuple[Check, ...] = ()
"""Each with where = "fleet"; their findings are made in this folder and added to hosts' results."""
