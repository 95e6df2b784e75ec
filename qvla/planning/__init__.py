"""Memory foretold from a configuration alone."""
