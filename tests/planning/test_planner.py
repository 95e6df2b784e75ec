"""Plans against what autograd keeps and what PyTorch's allocator gives out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from peft import get_peft_model
from transformers import (
    Gemma2Config,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    SiglipVisionConfig,
)

from qvla.captioning.prompts import IGNORED
from qvla.captioning.shared_backbone import SharedBackbone
from qvla.cli import main as cli
from qvla.methods.bottleneck import BottleneckConfig
from qvla.methods.method import Trained
from qvla.methods.recipe import Recipe, TrainingError, make_recipe
from qvla.models.architectures import PALIGEMMA_3B
from qvla.models.backbone import Precision, computing_in, load_backbone
from qvla.models.families import family_of
from qvla.models.footprint import census
from qvla.planning import gpus, planner
from qvla.planning.activations import Decoder, Step
from qvla.planning.planner import PlanError, plan
from qvla.planning.tower import Tower
from qvla.planning.trainable import optimiser_bytes
from qvla.records.measure import tensors_measured
from qvla.settings import EMBEDDED_MODEL
from qvla.tuning.caption_trainer import caption_loss, image_features
from qvla.tuning.methods import add_method, load_base

CPU = torch.device("cpu")
ROWS, PROMPT, CAPTION = 3, 4, 6  # of the batches made here

# method, the base's precision, autocast, attention, checkpointing, further settings
KEPT = {
    "float32": ("adapter", "fp32", False, "eager", False, {}),
    "float32 sdpa": ("adapter", "fp32", False, "sdpa", False, {}),
    "bf16": ("adapter", "bf16", True, "eager", False, {}),
    "bf16 sdpa": ("adapter", "bf16", True, "sdpa", False, {}),
    "float32 base under autocast": ("adapter", "fp32", True, "sdpa", False, {}),
    "checkpointing": ("adapter", "bf16", True, "sdpa", True, {}),
    "norms": ("adapter", "bf16", True, "eager", False, {"train_norms": True}),
    "some places": (
        *("adapter", "bf16", True, "sdpa", False),
        {"layers": [1, 2], "sites": ["mlp"], "reduction_factor": 4},
    ),
    "nf4": ("qvla", "nf4", True, "eager", False, {}),
    "nf4 without autocast": ("qvla", "nf4", False, "eager", False, {}),
    "nf4 checkpointing": ("qvla", "nf4", True, "eager", True, {}),
    "lora": ("lora", "bf16", True, "eager", False, {}),
    "some lora": (
        *("lora", "fp32", False, "sdpa", False),
        {"lora_targets": ["o_proj", "up_proj"], "layers": [1]},
    ),
    "qlora": ("qlora", "nf4", True, "sdpa", False, {}),
    "prefix": ("prefix", "bf16", True, "eager", False, {"layers": [1, 2]}),
    "prefix float32": ("prefix", "fp32", False, "sdpa", False, {"virtual_tokens": 3}),
    "multitask": ("multitask", "bf16", True, "eager", False, {"tasks": ["one", "two"]}),
    "multitask float32": ("multitask", "fp32", False, "sdpa", False, {}),
    "bitfit": ("bitfit", "fp32", False, "sdpa", False, {}),
    "bitfit under autocast": ("bitfit", "fp32", True, "eager", False, {}),
    "bitfit checkpointing": ("bitfit", "fp32", True, "eager", True, {}),
    "full": ("full", "fp32", True, "eager", False, {}),
    "full float32": ("full", "fp32", False, "sdpa", False, {}),
    "full checkpointing": ("full", "fp32", True, "eager", True, {}),
}

# What another case shows in another order.
SLOW = (
    *("bf16", "nf4 without autocast", "prefix float32", "multitask float32"),
    *("bitfit under autocast", "full float32"),
)


def recipe_for(model: Path, method: str = "adapter", **settings: object) -> Recipe:
    return make_recipe(
        method=method, model=str(model), data="data", output="output", device="cpu", **settings
    )


def batch_for(config: PaliGemmaConfig, rows: int = ROWS) -> dict[str, torch.Tensor]:
    """Rows of equal length: the photo's tokens, a prompt and a caption of words."""
    photo = photo_tokens(config)
    ids = torch.full((rows, photo + PROMPT + CAPTION), 7)
    ids[:, :photo] = config.image_token_id
    suffix = torch.zeros_like(ids)
    suffix[:, -CAPTION:] = 1
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": suffix,
        "labels": ids.masked_fill(suffix == 0, IGNORED),
    }


def photo_tokens(config: PaliGemmaConfig) -> int:
    return (config.vision_config.image_size // config.vision_config.patch_size) ** 2


def pixels_for(config: PaliGemmaConfig, rows: int = ROWS) -> torch.Tensor:
    side = config.vision_config.image_size
    return torch.randn(rows, 3, side, side)


def ready_to_train(recipe: Recipe, attention: str, checkpointing: bool) -> torch.nn.Module:
    backbone = load_base(recipe)
    backbone.model.set_attn_implementation({"text_config": attention})
    model = add_method(backbone, recipe).train()
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model


def kept_by_autograd(model: torch.nn.Module, forward: Callable[[], object]) -> int:
    """Bytes of every storage that autograd saves in the call, but for the model's own."""
    own = [*model.parameters(), *model.buffers()]
    own = {tensor.untyped_storage().data_ptr() for tensor in own}
    kept = {}  # the tensors themselves, so that no storage is freed and its place taken by another

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def trained_by(recipe: Recipe, config: PaliGemmaConfig) -> Trained:
    text = config.text_config
    layers = range(text.num_hidden_layers) if recipe.layers is None else recipe.layers
    if recipe.method == "full":
        return Trained()
    if recipe.method == "bitfit":
        return Trained("sight")
    if recipe.method == "prefix":
        return Trained("prefix", recipe.virtual_tokens, layers)
    if recipe.method == "multitask":
        return Trained("parallel", recipe.rank, layers, recipe.lora_targets, joined=True)
    if "lora" in recipe.method:
        return Trained("parallel", recipe.rank, layers, recipe.lora_targets)
    width = text.hidden_size // recipe.reduction_factor
    return Trained("sequential", width, layers, recipe.sites, recipe.train_norms)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name, case in KEPT.items()
    ],
)
def test_what_is_kept_is_what_autograd_keeps(tiny_checkpoint: Path, case: tuple) -> None:
    method, precision, autocast, attention, checkpointing, settings = case
    more = {} if precision == "nf4" else {"precision": precision}
    recipe = recipe_for(tiny_checkpoint, method, bf16=autocast, **settings, **more)
    model = ready_to_train(recipe, attention, checkpointing)
    config = model.config
    pixels, batch = pixels_for(config), batch_for(config)

    def forward() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            features = image_features(model, pixels, torch.arange(ROWS))
            caption_loss(model, batch, features)

    wide = precision == "fp32"
    if precision == "nf4" and not autocast:
        wide = computing_in(Precision.NF4, CPU, for_training=True) is torch.float32
    step = Step(
        rows=ROWS,
        image_tokens=photo_tokens(config),
        text_tokens=PROMPT + CAPTION,
        labels=ROWS * CAPTION,
        compute=4 if wide and not autocast else 2,
        residual=4 if wide else 2,
        attention=attention,
    )
    planned = Decoder(config, step, trained_by(recipe, config)).saved(checkpointing)
    if method in ("full", "bitfit"):
        tower = Tower(config, step, trained_by(recipe, config))
        planned += tower.saved(checkpointing)
        if method == "full" and not autocast:
            planned += tower.inputs()  # kept as they came, and counted as inputs
    assert planned == kept_by_autograd(model, forward)


@pytest.mark.parametrize("autocast", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("lora", {"towers": "vision", "vision_layers": [1]}),
        ("adapter", {"towers": "both", "placement": "top"}),
        ("adalora", {}),
        ("oft", {"towers": "both", "placement": "sparse"}),
        ("boft", {"towers": "vision"}),
        ("vera", {"towers": "both", "rank": 8}),
        ("ia3", {"preset": "vqa"}),
    ],
)
def test_what_other_methods_and_the_vision_tower_keep_is_nearly_told(
    tiny_checkpoint: Path, method: str, settings: dict, autocast: bool
) -> None:
    precision = "bf16" if autocast else "fp32"
    recipe = recipe_for(tiny_checkpoint, method, precision=precision, **settings)
    model = ready_to_train(recipe, "sdpa", False)
    config = model.config
    pixels, batch = pixels_for(config), batch_for(config)

    def forward() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            caption_loss(model, batch, image_features(model, pixels, torch.arange(ROWS)))

    width = 2 if autocast else 4
    step = Step(ROWS, photo_tokens(config), PROMPT + CAPTION, ROWS * CAPTION, width, width, "sdpa")
    places = family_of(config).places(config)
    trained = recipe.kind.method.trained(recipe, places)
    tower = Tower(config, step, trained)
    planned = Decoder(config, step, trained).saved(False)
    planned += tower.saved(False) if tower.trains else 0
    assert planned == pytest.approx(kept_by_autograd(model, forward), rel=0.16)  # VeRA; 0.09 else


def test_dora_multiplies_its_largest_projection_out() -> None:
    def activations(method: str, **settings: object) -> int:
        return plan(
            method=method, gradient_checkpointing=True, batch_size=1, **settings
        ).activations

    more = activations("dora") - activations("lora")
    # a unit matrix of down_proj's 16,384 inputs in float32, and three of its weight
    assert 1.0e9 < more < 4 * (16384**2 + 3 * 16384 * 2048) + 1e8
    near = activations("dora", lora_targets=["q_proj"])
    assert near - activations("lora", lora_targets=["q_proj"]) < 1e8


@pytest.mark.parametrize("norms", [False, True])
def test_paligemma_2_has_norms_and_caps_of_its_own(norms: bool) -> None:
    text = Gemma2Config(
        vocab_size=90,
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
    )
    vision = SiglipVisionConfig(
        image_size=32,
        patch_size=16,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        projection_dim=32,
        vision_use_head=False,
    )
    config = PaliGemmaConfig(
        text_config=text, vision_config=vision, image_token_id=80, projection_dim=32
    )
    base = PaliGemmaForConditionalGeneration._from_config(config, attn_implementation="eager")
    base.requires_grad_(False)
    model = get_peft_model(base, BottleneckConfig(reduction_factor=4, train_norms=norms)).train()
    features = image_features(model, pixels_for(config), torch.arange(ROWS))
    kept = kept_by_autograd(model, lambda: caption_loss(model, batch_for(config), features))
    step = Step(ROWS, 4, PROMPT + CAPTION, ROWS * CAPTION, 4, 4, "eager")
    trained = Trained("sequential", 8, range(2), ("attention", "mlp"), norms)
    assert Decoder(config, step, trained).saved(False) == pytest.approx(kept, rel=0.02)


@pytest.mark.parametrize(
    ("method", "checkpointing"),
    [
        ("adapter", False),
        pytest.param("adapter", True, marks=pytest.mark.slow),
        pytest.param("qvla", False, marks=pytest.mark.slow),
        pytest.param("qvla", True, marks=pytest.mark.slow),
        pytest.param("lora", False, marks=pytest.mark.slow),
        pytest.param("bitfit", False, marks=pytest.mark.slow),
        pytest.param("prefix", False, marks=pytest.mark.slow),
        pytest.param("crossmodal", True, marks=pytest.mark.slow),
    ],
)
def test_a_step_of_the_embedded_model_peaks_as_planned(method: str, checkpointing: bool) -> None:
    """Within 20 %: its activations and gradients, by PyTorch's allocator."""
    recipe = recipe_for(EMBEDDED_MODEL, method, batch_size=4, gradient_checkpointing=checkpointing)
    model = ready_to_train(recipe, "eager", checkpointing)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained)
    batch = batch_for(model.config, 4)

    def step() -> None:
        pixels = pixels_for(model.config, 4)
        with torch.autocast("cpu", torch.bfloat16):
            features = image_features(model, pixels, torch.arange(4))
            total, count = caption_loss(model, batch, features)
        (total / count).backward()
        optimiser.step()
        optimiser.zero_grad()

    step()  # makes the optimiser's states
    with tensors_measured(CPU) as usage:
        step()
    planned = planner.for_recipe(recipe, text_tokens=PROMPT + CAPTION, label_tokens=4 * CAPTION)
    peak = planned.activations + planned.gradients
    assert peak == pytest.approx(usage.peak_bytes, rel=0.2)
    states = sum(
        value.nbytes for state in optimiser.state.values() for value in state.values() if value.ndim
    )
    assert planned.optimiser == states


@pytest.mark.parametrize("precision", list(Precision))
def test_weights_are_those_that_load(tiny_checkpoint: Path, precision: Precision) -> None:
    for training in (False, True):
        # A run computes under autocast, unless its recipe says otherwise.
        compute = torch.bfloat16 if training else None
        model = load_backbone(
            tiny_checkpoint, precision, device="cpu", for_training=training, compute=compute
        ).model
        variant = "qvla" if precision is Precision.NF4 else "adapter"
        chosen = None if precision is Precision.NF4 else precision.value
        planned = plan(
            tiny_checkpoint,
            variant,
            task="training" if training else "captioning",
            precision=chosen,
            device="cpu",
        )
        model = get_peft_model(model, BottleneckConfig())
        adapter = 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
        due = census(model.get_base_model())
        assert planned.weights == due.total_bytes - due.part_bytes["adapters"] + adapter


def test_an_embedding_table_in_eight_bits_is_half_of_one_in_sixteen() -> None:
    plain = plan(variant="qvla", embeddings_8bit=False)
    short = plan(variant="qvla", embeddings_8bit=True)
    table = 257216 * 2048
    assert plain.weights - short.weights == pytest.approx(table, rel=0.01)
    assert plan(variant="base", embeddings_8bit=True) == plan(variant="base", embeddings_8bit=False)


def test_the_cache_is_as_large_as_the_real_one(tiny_checkpoint: Path) -> None:
    shared = SharedBackbone(str(tiny_checkpoint), Precision.FP32, "cpu")
    shared.load()
    model = shared.backbone.model
    batch = batch_for(model.config)
    del batch["labels"]
    with torch.no_grad():
        cache = model(**batch, pixel_values=pixels_for(model.config)).past_key_values
    real = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    layers = len(cache.layers)
    step = Step(ROWS, 4, PROMPT + CAPTION, 1, compute=4, residual=4)
    planned = Decoder(model.config, step, Trained()).cache(batch["input_ids"].shape[1])
    assert planned == real * (layers + 1) / layers  # and one layer's copy


def test_captioning_the_embedded_model_peaks_as_planned() -> None:
    model = load_backbone(EMBEDDED_MODEL, Precision.FP32, device="cpu").model
    config = model.config
    photos, tokens = 16, photo_tokens(config)
    ids = batch_for(config, photos)["input_ids"][:, : tokens + family_of(config).prompt_tokens]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs |= {"token_type_ids": torch.zeros_like(ids)}
    with torch.inference_mode(), tensors_measured(CPU) as usage:
        pixels = pixels_for(config, photos)
        model.generate(**inputs, pixel_values=pixels, min_new_tokens=20, max_new_tokens=20)
    planned = plan(
        EMBEDDED_MODEL,
        "base",
        task="captioning",
        batch_size=photos,
        new_tokens=20,
        device="cpu",
    )
    assert planned.activations == pytest.approx(usage.peak_bytes, rel=0.25)


def test_states_of_eight_bits_are_those_of_bitsandbytes() -> None:
    sizes = {"large": (300, 50), "small": (60, 60), "bias": (64,)}
    parameters = [torch.nn.Parameter(torch.zeros(size)) for size in sizes.values()]
    optimiser = bnb.optim.AdamW8bit(parameters)
    for number, parameter in enumerate(parameters):
        parameter.grad = torch.zeros_like(parameter)
        optimiser.init_state(optimiser.param_groups[0], parameter, 0, number)
    held = 0
    for state in optimiser.state.values():
        own = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
        held += sum(value.nbytes for name, value in own.items() if "qmap" not in name)
    numbers = [parameter.numel() for parameter in parameters]
    assert optimiser_bytes(numbers, "adamw_8bit") == held
    assert optimiser_bytes(numbers, "adamw_torch") == 8 * sum(numbers)


def test_the_full_size_by_hand() -> None:
    parameters, adapters = 2923466480, 18952704
    full = plan(variant="base", task="training")
    assert (full.weights, full.gradients) == (4 * parameters, 4 * parameters)
    assert full.optimiser == 8 * parameters
    adapter = plan(variant="adapter", task="training")
    assert adapter.weights == 2 * parameters + 4 * adapters
    assert (adapter.gradients, adapter.optimiser) == (4 * adapters, 8 * adapters)
    # 18 layers, each with the three factors of the MLP's product and two norms' inputs a token
    tokens = 4 * (256 + 5 + planner.CAPTION_TOKENS)
    least = tokens * 18 * (3 * 2 * 16384 + 2 * 4 * 2048)
    assert least < adapter.activations < 2 * least
    captioning = plan(variant="base", task="captioning", precision="bf16", batch_size=1)
    assert captioning.weights == 2 * parameters
    assert captioning.gradients == captioning.optimiser == 0
    assert full.total == sum(
        (full.weights, full.gradients, full.optimiser, full.activations, full.overhead)
    )


@pytest.mark.slow
def test_more_takes_more_and_recomputing_less() -> None:
    def activations(**settings: object) -> int:
        return plan(variant="qvla", **settings).activations

    usual = activations()
    assert activations(batch_size=8) > 1.8 * usual
    assert activations(image_tokens=1024) > 3 * usual
    assert activations(text_tokens=56) > usual
    assert activations(gradient_checkpointing=True) < usual / 4
    longer = activations(task="captioning", new_tokens=400)
    assert longer > activations(task="captioning", new_tokens=40)


def test_a_gpu_fits_what_leaves_its_margin_free() -> None:
    capacity = gpus.GPUS["L4 24 GB"]
    assert gpus.fits(int(0.9 * capacity), capacity)
    assert not gpus.fits(int(0.91 * capacity), capacity)
    names = [name for name, _, _ in gpus.fitting(0)]
    assert names[0] == "T4 16 GB" and names[-1] == "H200 141 GB"
    assert [fit for *_, fit in gpus.fitting(30 * 10**9)] == [
        size >= 30e9 / 0.9 for size in sorted(gpus.GPUS.values())
    ]
    assert plan(variant="qvla", gradient_checkpointing=True).smallest == "T4 16 GB"
    assert plan(variant="base", batch_size=10_000).smallest is None
    assert plan(variant="base", device="cpu").fits == []


def test_a_recipe_is_planned_by_its_own_settings(tiny_checkpoint: Path) -> None:
    recipe = recipe_for(tiny_checkpoint, "qvla", batch_size=2)
    named = plan(tiny_checkpoint, "qvla", batch_size=2, gradient_checkpointing=True, device="cpu")
    assert planner.for_recipe(recipe) == named
    assert planner.for_recipe(recipe, device="cuda").device == "cuda"
    full = planner.for_recipe(recipe_for(tiny_checkpoint, "full"))
    assert full == plan(tiny_checkpoint, "base", device="cpu")
    model = ready_to_train(recipe_for(tiny_checkpoint, "lora"), "eager", False)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert planner.for_recipe(recipe_for(tiny_checkpoint, "lora")).gradients == 4 * trained


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"variant": "other"}, "no variant 'other': choose one of base, adapter, qvla"),
        ({"task": "cooking"}, "no task 'cooking'"),
        ({"optimiser": "sgd"}, "no optimiser 'sgd'"),
        ({"device": "tpu"}, "no device 'tpu'"),
        ({"precision": "fp8"}, "no precision 'fp8': choose one of fp32, bf16"),
        ({"batch_size": 0}, "batch size must be at least 1"),
        ({"text_tokens": -1}, "number of text tokens must be at least 1"),
    ],
)
def test_what_does_not_exist_is_refused(settings: dict, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        plan(**settings)


@pytest.mark.parametrize("variant", ["base", "adapter", "qvla"])
def test_a_method_and_its_fields_are_checked_whoever_is_planned(variant: str) -> None:
    with pytest.raises(TrainingError, match="no method 'full' that makes adapters"):
        plan(variant=variant, method="full")
    with pytest.raises(TrainingError, match="Bottleneck adapter has no setting called rank"):
        plan(variant=variant, rank=4)


def test_the_verb_prints_every_variant(capsys: pytest.CaptureFixture[str]) -> None:
    common = ["plan", "--model", PALIGEMMA_3B, "--batch-size", "8"]
    assert cli.main([*common, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert list(answer["variants"]) == ["base", "adapter", "qvla"]
    due = plan(variant="adapter", batch_size=8)
    told = answer["variants"]["adapter"]
    assert told["total_bytes"] == due.total
    assert told["fits"] == {name: fit for name, _, fit in due.fits}

    assert cli.main([*common, "--variant", "qvla", "--task", "captioning"]) == 0
    text = capsys.readouterr().out
    total = plan(variant="qvla", task="captioning", batch_size=8).total
    assert f"{total / 1e9:.2f}" in next(row for row in text.splitlines() if "total" in row)
    assert "10% of the card left free" in text and "H200 141 GB" in text

    assert cli.main(["plan", "--variant", "other"]) == 2
