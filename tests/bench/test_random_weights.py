from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from qvla.bench import random_weights
from qvla.bench.random_weights import write_checkpoint
from qvla.captioning.contenders import VARIANTS
from qvla.captioning.decoding import Decoding
from qvla.captioning.engine import caption
from qvla.captioning.lineup import Lineup
from qvla.captioning.prompts import encode_images, encode_text
from qvla.errors import QvlaError
from qvla.models.backbone import load_backbone
from qvla.models.families import built_in
from tests.support.alone import photos
from tests.support.tiny import build_tiny


@pytest.fixture(scope="module")
def written(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_checkpoint(str(tiny_checkpoint), tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="module")
def full_vocabulary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The published model's tokens and image, over layers that weigh nothing; no weights there."""
    folder = tmp_path_factory.mktemp("wide")
    config = built_in()["google/paligemma-3b-pt-224"]()
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config.text_config.update(text | {"num_attention_heads": 2})
    config.vision_config.update(vision | {"num_attention_heads": 2, "projection_dim": 16})
    config.projection_dim = config.hidden_size = 16
    config.save_pretrained(folder)
    return write_checkpoint(str(folder), tmp_path_factory.mktemp("random"))


def test_all_three_variants_answer_through_the_line_up(written: dict[str, str]) -> None:
    settings = dict(written)
    lineup = Lineup.load(settings.pop("model"), **settings, device="cpu")
    assert [one.available for one in lineup.variants()] == [True] * 3, lineup.variants()
    answers = caption(lineup, photos(2), decoding=Decoding(max_new_tokens=4))
    for answer in answers:
        assert set(answer) == set(VARIANTS)
        assert all(1 <= one.tokens <= 4 for one in answer.values())
    assert any(one.text for answer in answers for one in answer.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "nf4"])
def test_logits_are_finite_and_neither_flat_nor_huge(
    written: dict[str, str], precision: str
) -> None:
    backbone = load_backbone(written["model"], precision, device="cpu")
    batch = encode_text(backbone.processor, ["caption en"])
    pixels = encode_images(backbone.processor, photos(1))
    with torch.no_grad():
        logits = backbone.model(**batch, pixel_values=pixels).logits.float()
    assert torch.isfinite(logits).all()
    # A normalised output against rows of the embedding table, each of this length.
    assert logits.std() == pytest.approx(random_weights.EMBEDDING_SCALE, rel=0.5)


def test_activations_grow_no_faster_than_the_layers(tmp_path: Path) -> None:
    deep = build_tiny(tmp_path / "deep", layers=24)
    model = load_backbone(write_checkpoint(str(deep), tmp_path)["model"], "fp32", device="cpu")
    batch = encode_text(model.processor, ["caption en"])
    pixels = encode_images(model.processor, photos(1))
    with torch.no_grad():
        states = model.model(**batch, pixel_values=pixels, output_hidden_states=True).hidden_states
    sizes = [float(state.pow(2).mean().sqrt()) for state in states[:-1]]
    assert all(0.01 < size < 2 * layer**0.5 + 2 for layer, size in enumerate(sizes)), sizes


def test_norms_and_biases_are_those_of_a_model_that_transformers_makes(
    written: dict[str, str],
) -> None:
    config = PaliGemmaConfig.from_pretrained(written["model"])
    made = {
        name: parameter
        for name, parameter in PaliGemmaForConditionalGeneration(config).named_parameters()
        if "norm" in name
    }
    model = load_backbone(written["model"], "fp32", device="cpu").model
    own = dict(model.named_parameters())
    assert len(made) > 10
    for name, parameter in made.items():
        assert torch.equal(own[name], parameter), name
    assert all(not own[name].any() for name in own if name.endswith("proj.bias"))


def test_the_same_seed_gives_the_same_files_and_another_seed_others(
    tiny_checkpoint: Path, written: dict[str, str], tmp_path: Path
) -> None:
    def hashes(settings: dict[str, str]) -> dict[str, str]:
        return {
            str(path.relative_to(settings["model"])): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(Path(settings["model"]).rglob("*"))
            if path.is_file()
        }

    first = hashes(written)
    again = hashes(write_checkpoint(str(tiny_checkpoint), tmp_path / "again"))
    other = hashes(write_checkpoint(str(tiny_checkpoint), tmp_path / "other", seed=7))
    assert again == first
    changed = {name for name in first if other[name] != first[name]}
    assert changed == {name for name in first if name.endswith(".safetensors")}


def test_the_two_adapters_are_not_the_same_and_not_nothing(written: dict[str, str]) -> None:
    one, other = (
        load_file(Path(written[name]) / "adapter_model.safetensors")
        for name in ("adapter", "nf4_adapter")
    )
    assert one.keys() == other.keys()
    assert all(tensor.any() and not torch.equal(tensor, other[key]) for key, tensor in one.items())


def test_the_full_vocabulary_gives_the_prompt_its_usual_length(
    full_vocabulary: dict[str, str],
) -> None:
    processor = load_backbone(full_vocabulary["model"], "bf16", device="cpu").processor
    [tokens] = encode_text(processor, ["caption en"])["input_ids"].tolist()
    assert tokens[:256] == [257152] * 256  # PaliGemma's image token, for 224 / 14 squared patches
    assert tokens[256] == 2  # <bos>
    assert len(tokens) == 256 + 4  # as Gemma's tokeniser: <bos>, caption, en, newline
    tokenizer = processor.tokenizer
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    assert len(tokenizer) == len(tokenizer.get_vocab()) == 257216
    assert processor.tokenizer.decode([300, 250000]).split() == ["word300", "word250000"]


def test_the_folder_is_named_after_the_model_and_says_what_it_holds(
    tiny_checkpoint: Path, written: dict[str, str]
) -> None:
    assert Path(written["model"]).name == f"{tiny_checkpoint.name} (random weights)"
    assert json.loads((Path(written["model"]) / "config.json").read_text())["dtype"] == "bfloat16"


def test_weights_come_in_shards_of_a_bounded_size(
    tiny_checkpoint: Path,
    written: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit = 300_000
    monkeypatch.setattr(random_weights, "SHARD_BYTES", limit)
    folder = Path(write_checkpoint(str(tiny_checkpoint), tmp_path)["model"])
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    whole = load_file(Path(written["model"]) / "model.safetensors")
    found = {}
    for shard in shards:
        with safe_open(shard, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert sum(tensor.nbytes for tensor in tensors.values()) <= limit
        found |= tensors
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())
    model = load_backbone(folder, "bf16", device="cpu").model
    assert sum(parameter.numel() for parameter in model.parameters()) == sum(
        tensor.numel() for tensor in whole.values()
    )


def test_a_full_disk_is_told_before_anything_is_written(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        random_weights.shutil, "disk_usage", lambda place: SimpleNamespace(free=10**6)
    )
    with pytest.raises(QvlaError, match=r"need 0\.1 GB and .* has 0\.0 GB left: make room"):
        write_checkpoint(str(tiny_checkpoint), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_architecture_that_would_have_to_be_fetched_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QvlaError, match=r"someone/else .*google/paligemma-3b-pt-224"):
        write_checkpoint("someone/else", tmp_path)


def test_a_vocabulary_without_room_for_the_special_tokens_is_refused(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    values = json.loads((tiny_checkpoint / "config.json").read_text())
    values["text_config"]["vocab_size"] = 1000
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(QvlaError, match="1000 token embeddings, too few"):
        write_checkpoint(str(tmp_path), tmp_path)
