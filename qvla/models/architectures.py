"""Names of architectures that are built in, so that a model can be reported on without its weights.

Their configurations stand with their families (`qvla.models.families.built_in`). Forms ask for the
names alone, which brings nothing heavy with it.
"""

from __future__ import annotations

PALIGEMMA_3B = "google/paligemma-3b-pt-224"
PALIGEMMA2_3B = "google/paligemma2-3b-pt-224"
BLIP_VQA = "Salesforce/blip-vqa-base"
VILT_VQA = "dandelin/vilt-b32-finetuned-vqa"
LLAVA_7B, LLAVA_13B = "llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-13b-hf"
