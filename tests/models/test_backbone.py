"""Loading checkpoints, good and bad, from folders."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    BitsAndBytesConfig,
    Gemma2Config,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
)

from qvla.captioning.prompts import encode_images, encode_text
from qvla.models.backbone import Backbone, Precision, load_backbone
from qvla.models.checkpoint import BackboneError
from tests.support.alone import round_rows

WEIGHTS = "model.safetensors"


def load(folder: Path | str, precision: Precision = Precision.FP32, **options) -> Backbone:
    return load_backbone(folder, precision, device="cpu", **options)


@pytest.fixture
def copied(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


DTYPES = {Precision.FP32: torch.float32, Precision.FP16: torch.float16}


def inputs_of(backbone: Backbone) -> dict[str, torch.Tensor]:
    image = Image.linear_gradient("L").convert("RGB")
    pixels = encode_images(backbone.processor, [image])
    dtype = DTYPES.get(backbone.precision, torch.bfloat16)
    return {
        **encode_text(backbone.processor, ["caption en"]),
        "pixel_values": pixels.to(dtype),
    }


@pytest.mark.parametrize("precision", list(Precision))
def test_every_precision_computes_what_transformers_alone_does(
    odd_checkpoint: Path, precision: Precision
) -> None:
    backbone = load(odd_checkpoint, precision, for_training=True, embeddings="bf16")
    assert not backbone.model.training
    assert backbone.precision is precision
    assert backbone.device == torch.device("cpu")
    options = {}
    if precision is Precision.NF4:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    if precision is Precision.INT8:
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    dtype = DTYPES.get(precision, torch.bfloat16)
    alone = PaliGemmaForConditionalGeneration.from_pretrained(
        odd_checkpoint, dtype=dtype, device_map={"": "cpu"}, **options
    )
    # Which keeps bitsandbytes from packing; there is no dropout. INT8 computes otherwise then.
    alone.train(precision is Precision.NF4)
    with torch.no_grad():
        assert torch.equal(
            backbone.model(**inputs_of(backbone)).logits, alone(**inputs_of(backbone)).logits
        )
    kinds = {parameter.dtype for parameter in backbone.model.parameters()}
    packed = {Precision.NF4: {torch.uint8}, Precision.INT8: {torch.int8}}
    assert kinds == {dtype} | packed.get(precision, set())
    assert backbone.model.lm_head.weight.dtype is dtype
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


def test_nf4_computes_with_an_embedding_table_in_8_bits(odd_checkpoint: Path) -> None:
    options = {"for_training": True, "compute": torch.bfloat16}
    found = load(odd_checkpoint, Precision.NF4, embeddings="int8", **options).model
    due = load(odd_checkpoint, Precision.NF4, for_training=True, embeddings="bf16")
    inputs = inputs_of(due)
    with torch.no_grad():
        unrounded = due.model(**inputs).logits.float()
        round_rows(due.model.lm_head.weight.data)
        logits = due.model(**inputs).logits.float()
        distance = (found(**inputs).logits.float() - logits).norm()
    assert distance < 0.005 * logits.norm()  # bfloat16 rounds by 0.002 on average
    assert distance < 0.5 * (unrounded - logits).norm()


def test_the_setting_says_how_nf4_holds_its_embeddings(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {}
    for setting in ("int8", "bf16"):
        monkeypatch.setenv("QVLA_NF4_EMBEDDINGS", setting)
        held[setting] = load(tiny_checkpoint, Precision.NF4).model.lm_head.weight.dtype
    assert held == {"int8": torch.int8, "bf16": torch.bfloat16}
    monkeypatch.delenv("QVLA_NF4_EMBEDDINGS")
    assert load(tiny_checkpoint, Precision.NF4).model.lm_head.weight.dtype is torch.int8
    whole = load(tiny_checkpoint, Precision.BF16, embeddings="int8").model
    assert {parameter.dtype for parameter in whole.parameters()} == {torch.bfloat16}
    with pytest.raises(BackboneError, match=r"'int4': use int8 or bf16\.$"):
        load(tiny_checkpoint, Precision.NF4, embeddings="int4")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "nf4"])
def test_every_precision_generates(odd_checkpoint: Path, precision: str) -> None:
    backbone = load(odd_checkpoint, precision)
    with torch.inference_mode():
        tokens = backbone.model.generate(**inputs_of(backbone), max_new_tokens=5, do_sample=False)
    assert tokens.shape[1] > inputs_of(backbone)["input_ids"].shape[1]


def test_the_published_layout_of_weight_names_loads(copied: Path) -> None:
    """The checkpoints on the hub have SigLIP one level deeper than today's Transformers."""
    due = load(copied)
    weights = load_file(copied / WEIGHTS)
    published = {
        name.replace("vision_tower.vision_model.", "vision_tower.").replace(
            "vision_tower.", "vision_tower.vision_model."
        ): tensor
        for name, tensor in weights.items()
    }
    assert "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight" in published
    assert "language_model.model.layers.0.mlp.up_proj.weight" in published
    save_file(published, copied / WEIGHTS, metadata={"format": "pt"})
    found = load(copied)
    with torch.no_grad():
        assert torch.equal(
            found.model(**inputs_of(found)).logits, due.model(**inputs_of(due)).logits
        )


def test_sharded_checkpoints_load(tiny_checkpoint: Path, tmp_path: Path) -> None:
    due = load(tiny_checkpoint)
    due.model.save_pretrained(tmp_path, max_shard_size="200KB")
    due.processor.save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    found = load(tmp_path)
    with torch.no_grad():
        assert torch.equal(
            found.model(**inputs_of(found)).logits, due.model(**inputs_of(due)).logits
        )
    shards[-1].unlink()
    assert shards[-1].name in refusal(tmp_path)


def test_paligemma_2_keeps_its_capped_attention(tiny_checkpoint: Path, tmp_path: Path) -> None:
    first = load(tiny_checkpoint)
    values = first.model.config.text_config.to_dict()
    text = Gemma2Config(
        **{key: values[key] for key in ("vocab_size", "hidden_size", "intermediate_size")},
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        query_pre_attn_scalar=32,
        attn_logit_softcapping=0.5,  # low, so that leaving it out would show
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    config = PaliGemmaConfig(
        text_config=text,
        vision_config=first.model.config.vision_config,
        image_token_id=first.model.config.image_token_id,
        projection_dim=64,
    )
    torch.manual_seed(0)
    model = PaliGemmaForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    model.save_pretrained(tmp_path)
    first.processor.save_pretrained(tmp_path)
    found = load(tmp_path)
    eager = PaliGemmaForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="eager")
    with torch.no_grad():
        logits = found.model(**inputs_of(found)).logits
        assert torch.allclose(logits, eager(**inputs_of(found)).logits, atol=1e-4)
    for precision in (Precision.BF16, Precision.NF4):
        assert (
            load(tmp_path, precision)
            .model.generate(**inputs_of(load(tmp_path, precision)), max_new_tokens=2)
            .numel()
        )


def refusal(name: Path | str, precision: Precision = Precision.FP32, *, device: str = "cpu") -> str:
    """The one sentence with which a model is refused."""
    with pytest.raises(BackboneError) as caught:
        load_backbone(name, precision, device=device)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".") and 20 < len(sentence) < 450
    return sentence


def edit_json(file: str, **changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        values = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**values, **changes}))

    return edit


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    return edit


def cut(file: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: len(content) * 2 // 3])

    return edit


def remove(*files: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        for file in files:
            (folder / file).unlink()

    return edit


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


UP = "language_model.model.layers.0.mlp.up_proj.weight"
NORM = "language_model.model.norm.weight"
BROKEN = {
    "no configuration": (remove("config.json"), "config.json"),
    "damaged configuration": (cut("config.json"), "damaged config.json"),
    "configuration of another shape": (
        lambda folder: (folder / "config.json").write_text("[1]"),
        "damaged config.json",
    ),
    "another model": (
        edit_json("config.json", model_type="qwen2_vl"),
        "not known here, 'qwen2_vl'",
    ),
    "nonsense configuration": (edit_json("config.json", text_config=7), "does not describe"),
    "no weights": (remove(WEIGHTS), "no model.safetensors"),
    "truncated weights": (cut(WEIGHTS), "damaged or truncated"),
    "empty weights": (lambda folder: (folder / WEIGHTS).write_bytes(b""), "damaged or truncated"),
    "pickles only": (pickled, "pickle"),
    "damaged index": (
        lambda folder: (folder / WEIGHTS).rename(folder / "model.safetensors.index.json"),
        "damaged model.safetensors.index.json",
    ),
    "a weight missing": (edit_weights(lambda weights: weights.pop(UP)), "lacks weights"),
    "an unknown weight": (
        edit_weights(lambda weights: weights.update(extra=torch.zeros(2))),
        "has unknown weights",
    ),
    "a linear layer of another size": (
        edit_weights(lambda weights: weights.update({UP: weights[UP][:64].clone()})),
        "(64, 64) where (128, 64) is due",
    ),
    "a norm of another size": (
        edit_weights(lambda weights: weights.update({NORM: torch.zeros(7)})),
        "(7,) where (64,) is due",
    ),
    "no tokeniser": (remove("tokenizer.json"), "no usable processor"),
    "damaged tokeniser": (cut("tokenizer.json"), "no usable processor"),
    "no processor": (remove("processor_config.json"), "processor"),
    "image tokens of another size": (
        edit_json("config.json", image_token_index=9),
        "processor of another model",
    ),
    "already quantised": (
        edit_json("config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        "gptq",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_bad_checkpoint_is_refused_in_one_sentence(copied: Path, case: str) -> None:
    damage, reason = BROKEN[case]
    damage(copied)
    for precision in (Precision.FP32, Precision.NF4):
        assert reason in refusal(copied, precision)


def test_names_that_are_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "There is no folder" in refusal(tmp_path / "missing")
    assert "There is no folder" in refusal(str(tmp_path / "missing"))
    assert "There is no folder" in refusal("missing")
    assert "is a file" in refusal(tmp_path / "file")


def test_devices_and_precisions_that_do_not_exist(tiny_checkpoint: Path) -> None:
    assert "no usable cuda:99" in refusal(tiny_checkpoint, device="cuda:99")
    assert "There is no device" in refusal(tiny_checkpoint, device="gpu")
    assert "There is no precision" in refusal(tiny_checkpoint, "int4")


def test_an_adapter_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/model"}')
    assert "is an adapter, not a model" in refusal(tmp_path)


def test_an_adapter_beside_the_weights_does_not_slip_into_the_base(copied: Path) -> None:
    backbone = load(copied)
    get_peft_model(backbone.model, LoraConfig(target_modules=["q_proj"])).save_pretrained(copied)
    assert "a model and an adapter in one folder" in refusal(copied)


def test_an_nf4_checkpoint_loads_in_nf4_only(odd_checkpoint: Path, tmp_path: Path) -> None:
    load(odd_checkpoint, Precision.NF4, embeddings="bf16").model.save_pretrained(tmp_path)
    load(odd_checkpoint).processor.save_pretrained(tmp_path)
    for embeddings in ("bf16", "int8"):
        due = load(odd_checkpoint, Precision.NF4, embeddings=embeddings)
        found = load(tmp_path, Precision.NF4, embeddings=embeddings)
        with torch.no_grad():
            assert torch.equal(
                found.model(**inputs_of(found)).logits, due.model(**inputs_of(due)).logits
            )
    assert "quantised to NF4" in refusal(tmp_path, Precision.BF16)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits its own memory as Linux does")
def test_too_little_memory_is_told_and_survived(tiny_checkpoint: Path, tmp_path: Path) -> None:
    script = f"""
        import json, resource
        from pathlib import Path
        import torch
        from qvla.models.backbone import load_backbone
        from qvla.models.checkpoint import BackboneError
        from tests.support.tiny import build_tiny

        torch.set_num_threads(1)
        tiny, wide = Path({str(tiny_checkpoint)!r}), Path({str(tmp_path)!r})
        build_tiny(wide, hidden=1024)
        load_backbone(tiny, "fp32", device="cpu")
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 2**26, -1))
        try:
            load_backbone(wide, "fp32", device="cpu")
        except BackboneError as error:
            print(error)
        load_backbone(tiny, "fp32", device="cpu")
        print("still usable")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    sentence, after = done.stdout.strip().splitlines()
    assert sentence.startswith("There is not enough memory on cpu to load")
    assert after == "still usable"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", list(Precision))
def test_on_cuda(odd_checkpoint: Path, precision: Precision) -> None:
    backbone = load_backbone(odd_checkpoint, precision)
    assert backbone.device.type == "cuda"
    reference = load(odd_checkpoint, precision)
    inputs = {key: value.to("cuda") for key, value in inputs_of(backbone).items()}
    with torch.no_grad():
        found = backbone.model(**inputs).logits.float().cpu()
        due = reference.model(**inputs_of(reference)).logits.float()
    assert (found - due).norm() < 0.2 * due.norm()
