"""The command line: one table of commands in `main`, and a file a command."""
