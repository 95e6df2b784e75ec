"""The Explore tab: what a way to adapt a model costs, before any weight is there."""
