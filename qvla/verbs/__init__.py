"""The command line's own verbs: each has `add_arguments(parser)` and `run(options) -> int`."""
