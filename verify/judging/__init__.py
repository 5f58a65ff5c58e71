"""Judging what hosts measured: by physics, by equal neighbours, by their own past. Pure."""
