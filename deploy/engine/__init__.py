"""Runs plans on hosts: a step at a time, supervised, a wave at once, over reboots."""
