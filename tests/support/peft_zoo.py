"""One adapter of every kind of PEFT's that a user may bring, of weights that change the answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import (
    AdaLoraConfig,
    BOFTConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftConfig,
    VeraConfig,
    get_peft_model,
)

from qvla.methods.bitfit import BitFitConfig
from qvla.methods.bottleneck import BottleneckConfig
from qvla.methods.crossmodal import CrossModalConfig
from qvla.methods.multitask import MultiTaskConfig
from qvla.methods.prefix import PrefixConfig
from qvla.models.backbone import Precision, computing_in
from tests.support.alone import loaded

DECODER = r".*language_model\.layers\.\d+\.(self_attn\.(q|v|o)_proj|mlp\.down_proj)"
NAMES = ["q_proj", "v_proj"]  # SigLIP's projections have these names too


def lora(**options: Any) -> Callable[[], PeftConfig]:
    options = {"r": 4, "lora_alpha": 8, "target_modules": DECODER, **options}
    return lambda: LoraConfig(**options)


ZOO: dict[str, Callable[[], PeftConfig]] = {
    "bottleneck": lambda: BottleneckConfig(reduction_factor=8),
    "bottleneck with norms": lambda: BottleneckConfig(reduction_factor=8, train_norms=True),
    "prefix": lambda: PrefixConfig(num_virtual_tokens=3, layers=[0, 2]),
    "bitfit": lambda: BitFitConfig(),
    "multi-task": lambda: MultiTaskConfig(
        r=4, target_modules=DECODER, tasks=["caption", "answer"], task="answer"
    ),
    "cross-modal": lambda: CrossModalConfig(r=4),
    "lora in the decoder": lora(),
    "lora in the vision tower": lora(target_modules=r".*vision_tower.*\.(q_proj|fc1)"),
    "lora in the projector": lora(target_modules=r".*multi_modal_projector\.linear.*"),
    "lora by plain names": lora(target_modules=NAMES),
    "lora on all linear layers": lora(target_modules="all-linear"),
    "rslora": lora(use_rslora=True),
    "dora": lora(use_dora=True),
    "lora with trained biases": lora(
        target_modules=r".*vision_tower.*\.(q_proj|fc1)", bias="lora_only"
    ),
    "lora and a whole layer": lora(modules_to_save=["post_attention_layernorm"]),
    "lora and the whole head": lora(modules_to_save=["lm_head"]),
    "lora and trainable tokens": lora(trainable_token_indices={"embed_tokens": [7, 8, 9]}),
    "lora on the embedding": lora(target_modules=["embed_tokens", "q_proj"]),
    "lora on the head": lora(target_modules=r".*(lm_head|language_model.*q_proj)"),
    "adalora": lambda: AdaLoraConfig(
        target_modules=DECODER, init_r=6, target_r=4, total_step=100, tinit=10, tfinal=10
    ),
    "ia3": lambda: IA3Config(
        target_modules=r".*language_model.*\.(k_proj|v_proj|down_proj)",
        feedforward_modules=r".*language_model.*\.down_proj",
    ),
    "ia3 by plain names": lambda: IA3Config(
        target_modules=["k_proj", "v_proj"], feedforward_modules=[]
    ),
    "loha": lambda: LoHaConfig(r=4, alpha=8, target_modules=DECODER),
    "lokr": lambda: LoKrConfig(r=4, alpha=8, target_modules=DECODER),
    "oft": lambda: OFTConfig(oft_block_size=8, target_modules=DECODER),
    "boft": lambda: BOFTConfig(boft_block_size=8, target_modules=DECODER),
    "vera": lambda: VeraConfig(r=16, target_modules=r".*language_model.*\.(q_proj|gate_proj)"),
    "ln tuning": lambda: LNTuningConfig(target_modules=["input_layernorm"]),
}

# Methods that fail on layers of 4 bits in plain PEFT too, or train a table that is in 8 bits here.
NOT_IN_NF4 = {
    "loha": "PEFT has no layers of 4 bits for it",
    "lokr": "PEFT has no layers of 4 bits for it",
    "lora and the whole head": "QVLA_NF4_EMBEDDINGS=bf16",
    "lora and trainable tokens": "QVLA_NF4_EMBEDDINGS=bf16",
}
if computing_in(Precision.NF4, torch.device("cpu")) is torch.bfloat16:
    # Its vectors are float32, and so is what its layers hand on, to layers that want bfloat16.
    NOT_IN_NF4 |= dict.fromkeys(("ia3", "ia3 by plain names"), "does not work on this model in nf4")


def make(name: str, checkpoint: Path, folder: Path, seed: int = 1) -> Path:
    """Saves an adapter of a kind, as PEFT itself saves it, after moving all that it trains."""
    torch.manual_seed(seed)
    model = get_peft_model(loaded(checkpoint), ZOO[name]())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder, save_embedding_layers="embedding" in name)
    return folder
