"""Self-critical training: captions are drawn from the model, and the better ones made likelier.

REINFORCE with CIDEr-D as the reward, after Rennie et al., "Self-critical Sequence Training for
Image Captioning" (arXiv 1612.00563): a last stage for a model that captions already. A caption is
not held against the greedy one, as there, but against the mean of the photo's other samples (Luo,
"A Better Variant of Self-Critical Sequence Training", arXiv 2003.09971): no less unbiased, of less
variance, and no greedy pass is needed.

The photo and the prompt pass the decoder once; all of the photo's samples go on from their keys and
values, through which the gradient flows back.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import Cache, ProcessorMixin

from qvla.captioning.prompts import decode, encode_text, prompt_of
from qvla.data.risc import Example
from qvla.models.families import family_of
from qvla.scoring.frequencies import count_lines
from qvla.scoring.ptb import tokenize
from qvla.scoring.sentence import DocumentFrequencies, cider_d
from qvla.tuning.caption_trainer import CaptionTrainer
from qvla.tuning.training_data import Captioned, CaptionedPhotos, shown

LONGEST = 40  # tokens of a sample, as many as `Decoding` allows unless told otherwise
# A word for the end of a caption, in samples and references alike: without it n-grams that break
# off, such as "next to a", would cost nothing (as in Luo's code).
END = "<end>"
# Of a batch of `PromptCollator`.
NOT_TEXT = ("pixel_values", "photos", "photo_rows", "examples", "numbers")


@dataclass(frozen=True)
class Sampled(Captioned):
    """A photo with the numbers that its samples are drawn by."""

    example: int
    numbers: np.ndarray  # (samples, LONGEST), each in [0, 1)


class SampledPhotos(CaptionedPhotos):
    """The photos of a run, with numbers that depend on (seed, epoch, photo) alone."""

    def __init__(self, *args: Any, samples: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._shape = (samples, LONGEST)

    def __getitem__(self, key: int | tuple[int, int]) -> Sampled:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        item = super().__getitem__(key)
        seed = self._random(epoch, "samples", index).getrandbits(64)
        numbers = np.random.default_rng(seed).random(self._shape)
        return Sampled(item.photo, item.pixels, item.caption, item.question, index, numbers)


class PromptCollator:
    """Items to one batch: the prompts, the photos as of `Collator`, and `examples` (B,) and
    `numbers` (B, samples, LONGEST).
    """

    def __init__(self, processor: ProcessorMixin, prefix: str) -> None:
        self._processor = processor
        self._prefix = prefix

    def __call__(self, items: Sequence[Sampled]) -> dict[str, torch.Tensor]:
        prompts = [prompt_of(item.question, self._prefix) for item in items]
        batch = dict(encode_text(self._processor, prompts))
        batch |= shown(self._processor, items)
        batch["examples"] = torch.tensor([item.example for item in items])
        batch["numbers"] = torch.from_numpy(np.stack([item.numbers for item in items]))
        return batch


class Rewards:
    """CIDEr-D of samples, with the document frequencies of the training captions."""

    def __init__(self, training: Sequence[Example]) -> None:
        documents = [_lines(example.references) for example in training]
        self._frequencies = DocumentFrequencies.of(count_lines(documents), len(documents))

    def __call__(
        self, captions: Sequence[str], ended: Sequence[bool], references: Sequence[Sequence[str]]
    ) -> list[float]:
        """One reward a caption: its own photo's references, and whether it ended by itself."""
        said = [
            f"{line} {END}".strip() if whole else line
            for line, whole in zip(tokenize(captions), ended, strict=True)
        ]
        return cider_d(said, [_lines(texts) for texts in references], self._frequencies)


def advantages(rewards: torch.Tensor) -> torch.Tensor:
    """Rewards (B, K) minus the mean of the other K - 1 samples of the same photo."""
    samples = rewards.shape[1]
    return (rewards - rewards.mean(1, keepdim=True)) * (samples / (samples - 1))


def policy_loss(surprises: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
    """What has REINFORCE's gradient of minus the expected reward, summed over the photos.

    Args:
        surprises: (B, K), minus the log-probability of each sample, summed over its tokens.
        rewards: (B, K); no gradient passes through them.
    """
    return (advantages(rewards) * surprises).mean(1).sum()


@dataclass(frozen=True)
class Read:
    """What the decoder made of photos and prompts: keys and values, and the next token's scores."""

    cache: Cache
    scores: torch.Tensor  # (B, vocabulary)

    def copies(self, count: int) -> Read:
        """Each row `count` times; to go on from the copies leaves these keys and values alone."""
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        cache.batch_repeat_interleave(count)
        return Read(cache, self.scores.repeat_interleave(count, 0))


@dataclass(frozen=True)
class Samples:
    """Captions in tokens; `counts` is True up to the end of text, that one included."""

    tokens: torch.Tensor  # (R, T)
    counts: torch.Tensor  # (R, T) bool
    ended: torch.Tensor  # (R,) bool, False where LONGEST cut it off


def read(model: torch.nn.Module, inputs: dict[str, torch.Tensor], features: torch.Tensor) -> Read:
    """Photos and prompts through the decoder. All prompts are the same, so no row is padded."""
    family = family_of(getattr(model, "module", model).config)  # DDP wraps it for several processes
    output = model(
        **{name: tensor for name, tensor in inputs.items() if name not in NOT_TEXT},
        **family.given_features(features),
        logits_to_keep=1,
        use_cache=True,
    )
    return Read(output.past_key_values, output.logits[:, -1].float())


@torch.no_grad()
def say(
    model: torch.nn.Module, start: Read, ends: Collection[int], numbers: torch.Tensor | None = None
) -> Samples:
    """Goes on from each row, by its numbers (R, LONGEST), or greedily without.

    A number picks the token at which the cumulative probability passes it, so a row's caption does
    not hang on the rows beside it. Rows that have ended are left out of the next step.
    """
    cache, scores = start.cache, start.scores
    rows = torch.arange(len(scores), device=scores.device)
    end = torch.tensor(sorted(ends), device=scores.device)
    tokens = torch.full((len(rows), LONGEST), int(end[0]), device=scores.device)
    counts = torch.zeros_like(tokens, dtype=torch.bool)
    ended = torch.zeros_like(rows, dtype=torch.bool)
    for step in range(LONGEST):
        picked = _pick(scores, None if numbers is None else numbers[rows, step])
        tokens[rows, step], counts[rows, step] = picked, True
        going = ~torch.isin(picked, end)
        ended[rows[~going]] = True
        if step == LONGEST - 1 or not going.any():
            break
        if not going.all():
            cache.batch_select_indices(going.nonzero()[:, 0])
            rows, picked = rows[going], picked[going]
        output = model(input_ids=picked[:, None], past_key_values=cache, use_cache=True)
        scores = output.logits[:, -1].float()
    return Samples(tokens[:, : step + 1], counts[:, : step + 1], ended)


def surprises(model: torch.nn.Module, start: Read, samples: Samples) -> torch.Tensor:
    """Minus the log-probability of each sample (R,), summed over its tokens, with gradients."""
    tokens, counts = samples.tokens, samples.counts
    total = cross_entropy(start.scores, tokens[:, 0], reduction="none")
    if tokens.shape[1] == 1:
        return total
    # Padding is at the end, where no token that counts attends to it.
    output = model(
        input_ids=tokens[:, :-1],
        past_key_values=start.cache,
        logits_to_keep=counts[:, 1:],  # (R, T - 1) bool -> (N, vocabulary)
        use_cache=True,
    )
    each = torch.zeros(counts[:, 1:].shape, device=total.device)
    each[counts[:, 1:]] = cross_entropy(
        output.logits.float(), tokens[:, 1:][counts[:, 1:]], reduction="none"
    )
    return total + each.sum(1)


class SelfCriticalTrainer(CaptionTrainer):
    """The Trainer with the self-critical loss.

    The value of its loss is minus the mean reward, of samples in training and of greedy captions in
    evaluation. What is trained is dropped out in sampling as it is in the gradient.
    """

    def __init__(self, *args: Any, processor: ProcessorMixin, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._processor = processor
        # Both are `SampledPhotos`, of which the Trainer's types say nothing.
        training: Any = self.train_dataset
        held_out: Any = self.eval_dataset
        model: Any = self.model
        self._shown, self._held_out = training, held_out
        self._rewards = Rewards(training.examples)
        self._ends = family_of(model.config).end_tokens(model, processor)

    def get_batch_samples(self, *args: Any) -> tuple[list[dict[str, torch.Tensor]], torch.Tensor]:
        """The batches of a step, and how many photos they have in all processes."""
        batches, _ = super().get_batch_samples(*args)
        photos = torch.tensor(sum(len(batch["examples"]) for batch in batches))
        photos = photos.to(self.args.device)
        return batches, self.accelerator.gather(photos).sum()

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, dict[str, torch.Tensor]]:
        plain = self.accelerator.unwrap_model(model)
        with self.accelerator.autocast():
            features = self.features(plain, inputs)
            if model.training:
                total = self._training(model, plain, inputs, features)
            else:
                samples = say(plain, read(plain, inputs, features), self._ends)
                examples = self._held_out.examples
                total = -self._scored(samples, inputs["examples"], examples).sum()
        if num_items_in_batch is None or not model.training:
            loss = total / len(inputs["examples"])
        else:  # DDP averages over the processes, so scale up
            loss = total / num_items_in_batch * self.accelerator.num_processes
        self.refuse_if_not_finite(model, loss)
        return (loss, {"loss": loss}) if return_outputs else loss

    def _training(
        self,
        model: torch.nn.Module,
        plain: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        features: torch.Tensor,
    ) -> torch.Tensor:
        numbers = inputs["numbers"]  # (B, K, LONGEST)
        photos, count = numbers.shape[:2]
        start = read(model, inputs, features)
        with torch.no_grad():
            samples = say(plain, start.copies(count), self._ends, numbers.flatten(0, 1))
        shown = inputs["examples"].repeat_interleave(count)
        rewards = self._scored(samples, shown, self._shown.examples)
        unlikely = surprises(model, start.copies(count), samples).view(photos, count)
        rewards = rewards.view(photos, count).to(unlikely.device)
        loss = policy_loss(unlikely, rewards)
        return loss - loss.detach() - rewards.mean(1).sum()

    def _scored(
        self, samples: Samples, shown: torch.Tensor, examples: Sequence[Example]
    ) -> torch.Tensor:
        references = [examples[index].references for index in shown.tolist()]
        captions = decode(self._processor, samples.tokens)
        return torch.tensor(self._rewards(captions, samples.ended.tolist(), references))


def _pick(scores: torch.Tensor, numbers: torch.Tensor | None) -> torch.Tensor:
    if numbers is None:
        return scores.argmax(-1)
    passed = scores.double().softmax(-1).cumsum(-1)
    aim = numbers[:, None] * passed[:, -1:]  # the sum is not quite 1
    return torch.searchsorted(passed, aim, right=True)[:, 0].clamp_max(scores.shape[-1] - 1)


def _lines(references: Sequence[str]) -> list[str]:
    return [f"{line} {END}" for line in tokenize(references) if line]
