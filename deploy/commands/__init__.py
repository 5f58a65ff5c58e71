"""One module per gpufleet subcommand: `add_arguments(parser)` and `run(arguments) -> exit code`."""
