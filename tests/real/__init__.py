"""Tests with other people's real packages: slow, from the network, not part of `make test`."""
