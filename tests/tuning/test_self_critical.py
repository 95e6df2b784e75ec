"""Self-critical training: its gradient, rewards and samples, and runs of it from start to end."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from PIL import Image
from pycocoevalcap.cider.cider import Cider
from safetensors.torch import load_file
from torch import nn
from transformers import DynamicCache

from qvla.captioning.prompts import CAPTION_PREFIX, decode, encode_text
from qvla.data.examples import read_examples
from qvla.data.risc import Example
from qvla.methods.recipe import TrainingError
from qvla.models.backbone import Backbone, load_backbone
from qvla.models.families import family_of
from qvla.scoring.ptb import tokenize
from qvla.tuning.attempt import Outcome
from qvla.tuning.caption_trainer import caption_loss, image_features
from qvla.tuning.methods import add_method
from qvla.tuning.run_events import caption_in_training
from qvla.tuning.self_critical import (
    END,
    LONGEST,
    PromptCollator,
    Read,
    Rewards,
    SampledPhotos,
    Samples,
    SelfCriticalTrainer,
    advantages,
    policy_loss,
    read,
    say,
    surprises,
)
from qvla.tuning.training import train
from tests.support.colours import recipe_for

HALT, WORD = 0, 1


class Toy(nn.Module):
    """Says its one word or halts, with the same odds at every step."""

    def __init__(self, odds: float) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(math.log(odds)))

    def scores(self, rows: int) -> torch.Tensor:
        return torch.stack([torch.zeros(rows), self.logit.expand(rows)], 1)

    def forward(
        self, input_ids: torch.Tensor, logits_to_keep: torch.Tensor | None = None, **_: object
    ) -> SimpleNamespace:
        rows, length = input_ids.shape
        logits = self.scores(rows)[:, None].expand(rows, length, 2)
        return SimpleNamespace(logits=logits if logits_to_keep is None else logits[logits_to_keep])


def numbers_of(*first: float) -> torch.Tensor:
    return torch.tensor([[*first, *[0.0] * (LONGEST - len(first))]], dtype=torch.float64)


def test_the_gradient_of_a_toy_of_two_words_is_the_one_worked_by_hand() -> None:
    # p = P(word) = 3/4. The samples are "word, halt" with reward 1 and "halt" with reward 0, so
    # their advantages are 1 and -1, and the loss is
    #   1/2 [ (-log p - log(1 - p)) - (-log(1 - p)) ] = -1/2 log p,
    # whose derivative by the logit of p is -1/2 (1 - p) = -1/8.
    toy = Toy(odds=3.0)
    start = Read(DynamicCache(), toy.scores(2))
    # Halting comes first in the cumulative sum: 0.9 lies beyond its 1/4, 0.1 does not.
    samples = say(toy, start, {HALT}, torch.cat([numbers_of(0.9, 0.1), numbers_of(0.1)]))
    assert samples.tokens.tolist() == [[WORD, HALT], [HALT, HALT]]
    assert samples.counts.tolist() == [[True, True], [True, False]]
    assert samples.ended.all()
    found = surprises(toy, start, samples)
    assert found.tolist() == pytest.approx([math.log(16 / 3), math.log(4)])
    policy_loss(found[None], torch.tensor([[1.0, 0.0]])).backward()
    assert toy.logit.grad.item() == pytest.approx(-1 / 8)


def test_over_all_draws_the_gradient_is_that_of_minus_the_expected_reward() -> None:
    # Captions of one token: the expected reward is p r + (1 - p) s, with the derivative
    # p (1 - p) (r - s) by p's logit. Summed over every triple of samples, weighed by its chance.
    chance, rewards = 0.75, {WORD: 2.0, HALT: 0.5}
    total = 0.0
    for triple in [(a, b, c) for a in rewards for b in rewards for c in rewards]:
        toy = Toy(odds=3.0)
        one = torch.ones(3, 1, dtype=torch.bool)
        samples = Samples(torch.tensor(triple)[:, None], one, one[:, 0])
        found = surprises(toy, Read(DynamicCache(), toy.scores(3)), samples)
        policy_loss(found[None], torch.tensor([[rewards[word] for word in triple]])).backward()
        weight = math.prod(chance if word == WORD else 1 - chance for word in triple)
        total += weight * toy.logit.grad.item()
    assert total == pytest.approx(-chance * (1 - chance) * (2.0 - 0.5))


def test_a_sample_is_held_against_the_mean_of_the_others() -> None:
    found = advantages(torch.tensor([[3.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
    assert found.tolist() == [[3.0, -1.5, -1.5], [0.0, 0.0, 0.0]]


def test_rewards_are_those_of_pycocoevalcap_on_captions_with_their_end() -> None:
    examples = [
        Example(Path("a"), "MADE", "train", ("A green forest.", "many green trees")),
        Example(Path("b"), "MADE", "train", ("the sea , and a white beach .",)),
        Example(Path("c"), "MADE", "train", ("some planes at the airport .", "", "an airport .")),
    ]
    said = ["many green trees .", "the sea and the", "a road"]
    ended = [True, False, True]
    truth = {
        row: [f"{line} {END}" for line in tokenize(example.references) if line]
        for row, example in enumerate(examples)
    }
    lines = {0: [f"many green trees {END}"], 1: ["the sea and the"], 2: [f"a road {END}"]}
    _, expected = Cider().compute_score(truth, lines)
    found = Rewards(examples)(said, ended, [example.references for example in examples])
    assert found == pytest.approx(expected.tolist(), abs=1e-9)
    assert found[0] > found[1] > 0
    [whole] = Rewards(examples)(["the sea and the"], [True], [examples[1].references])
    assert whole != pytest.approx(found[1])  # to break off is told from to end there
    assert Rewards(examples)([""], [True], [examples[0].references]) == [0.0]


def started(checkpoint: Path, data: Path, count: int) -> tuple[PeftModel, dict, Backbone]:
    """A model to be trained, a batch with three samples a photo, and its backbone."""
    torch.manual_seed(0)
    backbone = load_backbone(checkpoint, "fp32", device="cpu", for_training=True)
    model = add_method(backbone, recipe_for(checkpoint, data, data / "none"))
    photos = SampledPhotos(read_examples(data), backbone.processor, samples=3, seed=0)
    batch = PromptCollator(backbone.processor, CAPTION_PREFIX)([photos[n] for n in range(count)])
    return model, batch, backbone


def often(backbone: Backbone) -> set[int]:
    """Ends that a model of random weights comes upon now and then."""
    tokenizer = backbone.processor.tokenizer
    words = tokenizer.convert_tokens_to_ids(["trees", "sea", "of", "green", "white"])
    return {*ends_of(backbone), *words}


def ends_of(backbone: Backbone) -> set[int]:
    return family_of(backbone.model.config).end_tokens(backbone.model, backbone.processor)


def test_log_probabilities_and_gradients_are_those_of_whole_passes(
    tiny_checkpoint: Path, data: Path
) -> None:
    model, batch, backbone = started(tiny_checkpoint, data, 6)
    model.train()
    features = image_features(model, batch["pixel_values"], batch["photo_rows"])
    start = read(model, batch, features)
    ends = often(backbone)
    samples = say(model, start.copies(3), ends, batch["numbers"].flatten(0, 1))
    lengths = samples.counts.sum(1)
    assert lengths.unique().numel() > 2
    found = surprises(model, start.copies(3), samples)
    weights = torch.linspace(-1, 1, len(found))
    (found * weights).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}

    model.zero_grad()
    prompt = len(batch["input_ids"][0])
    total = 0
    for row, (tokens, length) in enumerate(zip(samples.tokens, lengths, strict=True)):
        own = row // 3
        ids = torch.cat([batch["input_ids"][own], tokens[:length]])[None]
        types = (torch.arange(ids.shape[1]) >= prompt).long()[None]
        text = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": types}
        labels = ids.masked_fill(types == 0, -100)
        whole, count = caption_loss(model, {**text, "labels": labels}, features[own : own + 1])
        assert count == length
        assert found[row].item() == pytest.approx(whole.item(), rel=1e-5)
        total = total + weights[row] * whole
    total.backward()
    for name, gradient in gradients.items():
        expected = model.get_parameter(name).grad
        torch.testing.assert_close(gradient, expected, atol=2e-5, rtol=1e-4)


def test_a_sample_depends_on_its_own_numbers_and_photo_alone(
    tiny_checkpoint: Path, data: Path
) -> None:
    model, batch, backbone = started(tiny_checkpoint, data, 4)
    ends = often(backbone)
    features = image_features(model, batch["pixel_values"], batch["photo_rows"])
    numbers = batch["numbers"].flatten(0, 1)
    with torch.no_grad():
        start = read(model, batch, features)
        together = say(model, start.copies(3), ends, numbers)
        for row in (0, 1, 5, 11):
            own = row // 3
            text = {name: batch[name][own : own + 1] for name in batch if name != "pixel_values"}
            alone = say(
                model, read(model, text, features[own : own + 1]), ends, numbers[row : row + 1]
            )
            kept = alone.tokens.shape[1]
            assert torch.equal(together.tokens[row, :kept], alone.tokens[0])
            assert torch.equal(together.counts[row, :kept], alone.counts[0])
            assert not together.counts[row, kept:].any()
    texts = decode(backbone.processor, together.tokens)
    assert len(set(texts)) > 6


def test_without_numbers_the_captions_are_those_of_generate(
    tiny_checkpoint: Path, data: Path
) -> None:
    model, batch, backbone = started(tiny_checkpoint, data, 8)
    features = image_features(model, batch["pixel_values"], batch["photo_rows"])
    ends = ends_of(backbone)
    said = decode(backbone.processor, say(model, read(model, batch, features), ends).tokens)
    images = [Image.open(example.image).convert("RGB") for example in read_examples(data)[:8]]
    recipe = recipe_for(tiny_checkpoint, data, data / "none")
    assert said == caption_in_training(backbone, model, images, recipe.prefix)


def test_numbers_draw_every_token_as_often_as_it_is_likely() -> None:
    toy = Toy(odds=3.0)
    count = 1000
    numbers = torch.zeros(count, LONGEST, dtype=torch.float64)
    numbers[:, 0] = (torch.arange(count) + 0.5) / count
    samples = say(toy, Read(DynamicCache(), toy.scores(count)), {HALT}, numbers)
    assert (samples.tokens[:, 0] == WORD).sum() == 750
    never = numbers.fill_(1 - 2**-53)  # as high as a number can be
    cut_off = say(toy, Read(DynamicCache(), toy.scores(count)), {HALT}, never)
    assert (cut_off.tokens == WORD).all() and cut_off.tokens.shape[1] == LONGEST
    assert not cut_off.ended.any() and cut_off.counts.all()


@pytest.fixture(scope="module")
def taught(tiny_checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that captions the photos after a fashion: rewards of random weights are 0."""
    output = tmp_path_factory.mktemp("taught") / "mini"
    changes = {"method": "full", "batch_size": 6, "max_steps": 40, "eval_splits": []}
    train(recipe_for(tiny_checkpoint, data, output, **changes))
    return output


@pytest.mark.parametrize("method", ["adapter", pytest.param("qlora", marks=pytest.mark.slow)])
def test_a_run_makes_likelier_what_is_rewarded(
    method: str, taught: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counted(self: Rewards, captions: list[str], *_: object) -> list[float]:
        return [float(caption.split().count("the")) for caption in captions]

    monkeypatch.setattr(Rewards, "__call__", counted)
    changes = {"method": method, "rank": 4, "objective": "cider", "batch_size": 4, "samples": 8}
    changes |= {"max_steps": 6, "learning_rate": 2e-2, "eval_splits": []}
    changes |= {"warmup_steps": 0, "lr_scheduler": "constant"}
    card = train(recipe_for(taught, data, tmp_path / "out", **changes)).card
    said = [-row["loss"] for row in card["curve"] if "loss" in row]
    assert sum(said[-3:]) > 1.5 * sum(said[:3]) > 0


def test_a_run_starts_from_an_adapter_and_says_so(taught: Path, data: Path, tmp_path: Path) -> None:
    train(recipe_for(taught, data, tmp_path / "first", max_steps=2, eval_splits=[]))
    changes = {"objective": "cider", "start_from": tmp_path / "first", "max_steps": 2}
    card = train(recipe_for(taught, data, tmp_path / "second", **changes)).card
    assert card == json.loads((tmp_path / "second" / "run.json").read_text())
    assert card["recipe"]["objective"] == "cider" and card["recipe"]["start_from"] == "first"
    assert str(tmp_path) not in json.dumps(card)
    values = [row.get("loss", row.get("eval_loss")) for row in card["curve"]]
    assert len(values) == 3 and all(-10 <= value < 0 for value in values)  # minus the mean reward


def test_full_fine_tuning_has_the_objective_too(
    tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    changes = {"method": "full", "objective": "cider", "samples": 2, "max_steps": 2}
    card = train(recipe_for(tiny_checkpoint, data, tmp_path / "full", **changes)).card
    assert card["steps"] == 2


def test_accumulated_batches_take_the_step_of_a_whole_one(
    taught: Path, data: Path, tmp_path: Path
) -> None:
    weights = []
    for batch_size, accumulation in ((5, 1), (2, 3)):  # the last of three has fewer photos
        output = tmp_path / str(batch_size)
        changes = {"batch_size": batch_size, "gradient_accumulation": accumulation, "max_steps": 1}
        only = [example for example in read_examples(data) if example.split == "train"][:5]
        recipe = recipe_for(*(taught, data, output), objective="cider", warmup_steps=0, **changes)
        train(recipe, only)
        weights.append(load_file(output / "adapter_model.safetensors"))
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], atol=2e-5, rtol=1e-3)


LONG = {"objective": "cider", "samples": 3, "max_steps": 6, "save_steps": 1, "eval_steps": 2}
LONG |= {"augment": "crops", "batch_size": 4, "dropout": 0.2, "lr_scheduler": "cosine"}


@pytest.fixture(scope="module")
def uninterrupted(taught: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return train(recipe_for(taught, data, tmp_path_factory.mktemp("whole") / "out", **LONG))


@pytest.mark.slow
@pytest.mark.parametrize("interrupted_at", [3, 4])  # just after an epoch's end, and within one
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    interrupted_at: int,
    uninterrupted: Outcome,
    taught: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    halves = recipe_for(taught, data, tmp_path / "halves", **LONG)
    compute_loss = SelfCriticalTrainer.compute_loss
    with monkeypatch.context() as cut:

        def watched(self: SelfCriticalTrainer, model: PeftModel, *args: object, **rest: object):
            if model.training and self.state.global_step == interrupted_at:
                raise InterruptedError("cut off")
            return compute_loss(self, model, *args, **rest)

        cut.setattr(SelfCriticalTrainer, "compute_loss", watched)
        with pytest.raises(InterruptedError):
            train(halves)
    with pytest.raises(TrainingError, match="began with samples 3"):
        train(halves.model_copy(update={"samples": 4}), resume=True)
    resumed = train(halves, resume=True)
    assert resumed.card["resumed_from_step"] == interrupted_at
    curves = [
        [row.get("loss", row.get("eval_loss")) for row in one.card["curve"]]
        for one in (uninterrupted, resumed)
    ]
    assert min(curves[0]) < -0.1  # there was something to learn from
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)
    found = load_file(halves.output / "adapter_model.safetensors")
    for name, weight in load_file(uninterrupted.folder / "adapter_model.safetensors").items():
        torch.testing.assert_close(found[name], weight, atol=1e-6, rtol=1e-5)


def test_what_cannot_work_is_refused_in_one_sentence(
    tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    def refused(sentence: str, **changes: object) -> None:
        with pytest.raises(TrainingError, match=sentence) as caught:
            recipe_for(tiny_checkpoint, data, tmp_path / "out", **changes)
        assert "\n" not in str(caught.value)

    refused("--gradient-checkpointing", objective="cider", gradient_checkpointing=True)
    refused("samples", objective="cider", samples=1)
    refused("objective", objective="bleu")
    assert not recipe_for(
        tiny_checkpoint, data, tmp_path / "out", objective="cider", method="qvla"
    ).recomputes


def test_the_prompt_is_the_one_of_captioning(tiny_checkpoint: Path, data: Path) -> None:
    _, batch, backbone = started(tiny_checkpoint, data, 3)
    plain = encode_text(backbone.processor, [CAPTION_PREFIX] * 3)
    for name in plain:
        assert torch.equal(batch[name], plain[name])
