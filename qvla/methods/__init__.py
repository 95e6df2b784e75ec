"""Every way to fine-tune, a file or folder a method."""
