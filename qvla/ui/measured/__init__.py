"""The Memory, Latency and CIDEr tabs: what was measured, beside what was reported."""
