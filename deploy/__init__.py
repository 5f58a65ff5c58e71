"""Wanted state, and the way to it: specs, facts, solving, the lock, plans and layers."""
