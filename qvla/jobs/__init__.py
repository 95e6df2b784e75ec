"""Fine-tune jobs: a queue that outlives the app, a store of what became of each, and workers.

The store (`store.py`) is the truth. The queue only says which job to look at next, and a worker
claims the job in the store before it runs it. What one process leaves undone when it is killed,
`recovery.py` finds and mends. Nothing here imports torch: a job is `python -m qvla train` in a
process of its own.
"""
