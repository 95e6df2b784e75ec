"""Speed and memory, measured on this machine and kept as records: a file a suite."""
