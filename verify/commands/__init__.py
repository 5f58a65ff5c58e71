"""The subcommands that look at hosts and at what was found; deploy/cli.py loads them by name."""
