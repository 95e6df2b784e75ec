"""For how long ZeroGPU is asked to lend a GPU: an upper estimate of one call's seconds.

A call that takes longer is ended, one that asks for more waits longer and needs more of a visitor's
daily quota to be let in; what counts against the quota is the time that it took. Nothing of this
was measured on ZeroGPU.
"""

from __future__ import annotations

import math

START = 8.0  # seconds in which the process is forked and has its CUDA context: assumed
TRANSFER = 1e9  # bytes a second at which weights come from disk to the GPU: assumed
# A step of the decoder, which at these sizes is bound by the host. bitsandbytes' notes on its
# release 0.45 have 24 ms for a model of 8 B parameters on an H100 in bf16 and 42 ms in NF4.
STEP = 0.045
PROMPT = 20  # steps: the photo seen and the prompt read, the first kernels chosen
BEAMS = 1.5  # the same step with several beams, whose caches are sorted anew each time
MARGIN = 2.0


def seconds_to_lend(
    weight_bytes: int, contenders: int, new_tokens: int, *, beams: bool = False
) -> int:
    """Seconds for answers of up to `new_tokens` by so many contenders, one after the other.

    `weight_bytes` are all that the app holds: every one of them is moved, whoever is asked.
    """
    decoding = contenders * (PROMPT + new_tokens) * STEP * (BEAMS if beams else 1)
    return math.ceil(START + weight_bytes / TRANSFER + MARGIN * decoding)
