"""File formats that `qvla.data.imagery` reads, each with limits on memory and work."""
