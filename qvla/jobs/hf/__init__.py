"""Fine-tunes as Hugging Face Jobs (`QVLA_RUNNER=hf-jobs`), for a machine without a GPU.

The worker starts `follow.py` where it would start training. That process puts everything that the
run needs into a private repository of the token's account, starts a job by huggingface_hub's own
client, and says what the job says. In the job runs `inside.py`: it trains by the same recipe, and
pushes every checkpoint, and at the end the adapter, into that repository. What the worker's machine
has to know to find the job again stands in `remote.json` in the job's folder (`state.py`).
"""
