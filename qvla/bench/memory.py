"""How much memory an arrangement takes, measured in a process of its own.

Run as `python -m qvla.bench.memory ARRANGEMENT SETTINGS PHOTO NEW_TOKENS`: prints one JSON object.
A fresh process is needed because memory that a process once had is rarely given back whole.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any

from qvla.settings import Settings, child_environment, load_settings

ARRANGEMENTS = ("lineup", "separate")


@dataclass(frozen=True)
class Memory:
    """Bytes above those of the process with all its libraries imported and nothing loaded.

    Resident memory of the process on the CPU, PyTorch's allocator on CUDA. `loaded` is after
    loading, `peak` the most while captioning one photo with all three variants after that.
    """

    loaded: int
    peak: int


def in_own_process(module: str, *arguments: str, what: str) -> dict[str, Any]:
    """Runs `python -m MODULE ARGUMENTS` and returns the JSON object that it prints last.

    `what` names the work in the sentence of the BenchError that a failure raises.
    """
    from qvla.bench.arrangements import BenchError

    command = [sys.executable, "-m", module, *arguments]
    result = subprocess.run(command, env=child_environment(), capture_output=True, text=True)
    if result.returncode != 0:
        words = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
        raise BenchError(f"{what} could not be measured: {words[-1]}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def counted_in(device: str) -> str:
    """What `qvla.records.measure.Meter` counts on a device, in the words of a record's protocol."""
    if device != "cpu":
        return "PyTorch's allocator"
    return (
        "above the process with its imports: its own pages (RssAnon; a peak is VmHWM less the "
        "pages of files, when loading the highest of samples) and weights that lie in mapped files"
    )


def measure_in_own_process(
    arrangement: str, settings: Settings, photo: str, new_tokens: int
) -> Memory:
    """Starts the process and waits for it; raises BenchError with its last words when it fails."""
    given = (settings.model_dump_json(), photo, str(new_tokens))
    what = f"Memory of the arrangement {arrangement}"
    return Memory(**in_own_process("qvla.bench.memory", arrangement, *given, what=what))


def measure(arrangement: str, settings: Settings, photo: str, new_tokens: int) -> Memory:
    """Loads the arrangement here and captions the photo. Call it once in a process.

    The settings must name the device and precision, not leave them to be chosen.
    """
    import bitsandbytes  # noqa: F401
    import torch

    from qvla.bench import arrangements
    from qvla.captioning.engine import caption
    from qvla.data.imagery import open_image
    from qvla.models.families import families
    from qvla.records.measure import held_memory, peak_memory, reset_peak_memory

    families()  # imports the models' code, which is not to be counted
    images = [open_image(photo)]
    device = torch.device(settings.device)
    before = held_memory(device)
    if arrangement == "lineup":
        lineup = arrangements.load_lineup(settings)
        decoding = arrangements.fixed_length(lineup.shared("base"), new_tokens)
    else:
        models = arrangements.load_separately(settings)
        decoding = arrangements.fixed_length(models["base"], new_tokens)
    gc.collect()
    loaded = held_memory(device)
    reset_peak_memory(device)
    if arrangement == "lineup":
        caption(lineup, images, decoding=decoding)
    else:
        arrangements.caption_in_turn(models, images, decoding)
    peak = peak_memory(device)
    if before is None or loaded is None or peak is None:
        raise arrangements.BenchError("This system does not tell how much memory a process holds.")
    return Memory(loaded - before, peak - before)


if __name__ == "__main__":
    name, given, photo_path, length = sys.argv[1:]
    chosen = load_settings(**json.loads(given))
    print(json.dumps(asdict(measure(name, chosen, photo_path, int(length)))))
