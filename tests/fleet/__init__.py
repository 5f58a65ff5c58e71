"""Tests that need the simulated fleet: real Debian nodes, simulated GPUs (tests/sim)."""
