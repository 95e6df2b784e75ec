from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple
from itertools import count, pairwise

import pytest
import torch
from PIL import Image

from qvla.captioning import cohort, desk, watch
from qvla.captioning.contenders import VARIANTS
from qvla.captioning.decoding import Decoding
from qvla.captioning.engine import caption, stream
from qvla.captioning.generation import Caption, CaptioningError, Partial
from qvla.captioning.lineup import Lineup
from qvla.errors import QvlaError
from tests.support.alone import (
    LENGTH,
    Alone,
    Weights,
    clear_photos,
    photos,
    word_tokens,
)
from tests.support.waiting import PATIENCE

DECODING = Decoding(max_new_tokens=LENGTH)
PHOTOS = photos(4, seed=1)


@pytest.fixture(scope="module")
def clear(alone: dict[str, Alone]) -> list[Image.Image]:
    return clear_photos([alone[name] for name in VARIANTS], 4)


@pytest.fixture(scope="module")
def ending_lineup(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Lineup:
    """The same weights, where half of the words end the text, so that rows end one by one."""
    folder = tmp_path_factory.mktemp("ending") / "model"
    shutil.copytree(weights.model, folder)
    path = folder / "generation_config.json"
    config = json.loads(path.read_text())
    config["eos_token_id"] = [1, *word_tokens()[::2]]
    path.write_text(json.dumps(config))
    return Lineup.load(
        folder,
        adapter=weights.adapter,
        nf4_adapter=weights.nf4_adapter,
        precision="fp32",
        device="cpu",
    )


@contextmanager
def calls_of(
    lineup: Lineup, variant: str, part: str, *, then: Callable[[], object] = lambda: None
) -> Iterator[list[int]]:
    """Batch sizes of the calls of a module, by the end of its name, on a variant's backbone.

    `then` is called after each.
    """
    sizes: list[int] = []

    def count(_: torch.nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        tensors = [value for value in [*args, *kwargs.values()] if isinstance(value, torch.Tensor)]
        sizes.append(len(tensors[0]))
        then()

    handles = [
        module.register_forward_hook(count, with_kwargs=True)
        for module in everywhere(lineup, variant, part)
    ]
    try:
        yield sizes
    finally:
        for handle in handles:
            handle.remove()


def everywhere(lineup: Lineup, variant: str, part: str) -> list[torch.nn.Module]:
    """A module, by the end of its name, in every module tree over a variant's weights."""
    shared = lineup.shared(variant)
    trees = [shared.backbone.model, *(view.model for view in shared.views)]
    found = [[m for name, m in tree.named_modules() if name.endswith(part)] for tree in trees]
    assert all(len(modules) == 1 for modules in found)
    return [modules[0] for modules in found]


@pytest.mark.parametrize("images", [1, 3])
def test_the_vision_tower_runs_once_for_base_and_adapter(lineup: Lineup, images: int) -> None:
    with (
        calls_of(lineup, "base", "vision_tower") as sights,
        calls_of(lineup, "base", "multi_modal_projector") as projections,
        calls_of(lineup, "base", "language_model") as steps,
    ):
        caption(lineup, PHOTOS[:images], ("base", "adapter"), DECODING)
    assert sights == projections == [images]
    assert steps == [2 * images] * LENGTH  # and each step is one forward for both
    with calls_of(lineup, "base", "vision_tower") as sights:
        list(stream(lineup, PHOTOS[0], ("base", "adapter"), DECODING))
    assert sights == [1]


def test_a_batch_answers_as_each_photo_alone_in_the_order_given(
    lineup: Lineup, alone: dict[str, Alone], clear: list[Image.Image]
) -> None:
    for images in (clear, clear[::-1]):
        answers = caption(lineup, images, VARIANTS, DECODING)
        assert len(answers) == len(images)
        for photo, answer in zip(images, answers, strict=True):
            assert list(answer) == list(VARIANTS)
            assert {name: one.text for name, one in answer.items()} == {
                name: alone[name].text(photo) for name in VARIANTS
            }
            assert {one.tokens for one in answer.values()} == {LENGTH}


def test_variants_come_in_the_order_asked_and_once(lineup: Lineup) -> None:
    (answer,) = caption(lineup, PHOTOS[:1], ("qvla", "adapter", "base", "qvla"), DECODING)
    (usual,) = caption(lineup, PHOTOS[:1], VARIANTS, DECODING)
    assert list(answer) == ["qvla", "adapter", "base"]
    assert {name: one.text for name, one in answer.items()} == {
        name: one.text for name, one in usual.items()
    }


@pytest.mark.parametrize("beams", [2, 3])
def test_beams_answer_as_beams_alone(
    lineup: Lineup, alone: dict[str, Alone], clear: list[Image.Image], beams: int
) -> None:
    decoding = Decoding(max_new_tokens=LENGTH, num_beams=beams)
    found = caption(lineup, clear[:2], VARIANTS, decoding)
    greedy = caption(lineup, clear[:2], VARIANTS, DECODING)
    for index, photo in enumerate(clear[:2]):
        for name in VARIANTS:
            model, answer = alone[name], found[index][name]
            best = model.text(photo, num_beams=beams)
            if name != "qvla":
                assert answer.text == best
            # In bfloat16 beams may end in a near tie, so QVLA's need only be as likely.
            likely = model.likelihood(photo, best)
            assert model.likelihood(photo, answer.text) > likely - 0.1
            assert 0 < answer.seconds_to_first_token < answer.seconds
    assert any(found[i][n].text != greedy[i][n].text for i in range(2) for n in VARIANTS)


def test_rows_stop_at_the_end_of_text_each_in_its_own_time(
    ending_lineup: Lineup, lineup: Lineup
) -> None:
    decoding = Decoding(max_new_tokens=40)
    ends = ending_lineup.shared("base").backbone.model.generation_config.eos_token_id
    tokenizer = ending_lineup.shared("base").backbone.processor.tokenizer
    ending_words = set(tokenizer.convert_ids_to_tokens(ends))
    answers = caption(ending_lineup, PHOTOS, VARIANTS, decoding)
    endless = caption(lineup, PHOTOS, VARIANTS, decoding)
    for answer, longer in zip(answers, endless, strict=True):
        for name in VARIANTS:
            words = answer[name].text.split()
            assert answer[name].tokens == len(words)
            assert words[-1] in ending_words and not ending_words & set(words[:-1])
            assert longer[name].text.startswith(answer[name].text)
    rows = [answer[name] for answer in answers for name in ("base", "adapter")]
    by_length = sorted(rows, key=lambda row: row.tokens)
    assert len({row.tokens for row in rows}) > 2  # else there is nothing to tell apart
    assert all(row.seconds_to_first_token <= row.seconds for row in rows)
    assert len({row.seconds_to_first_token for row in rows}) == 1  # one step chose them all
    for shorter, longer_row in pairwise(by_length):
        if shorter.tokens < longer_row.tokens:
            assert shorter.seconds < longer_row.seconds


def test_a_photo_of_any_shape_is_captioned(lineup: Lineup) -> None:
    shapes = [(1, 1), (300, 7), (7, 300)]
    answers = caption(lineup, [Image.new("RGB", shape, "green") for shape in shapes])
    assert all(answer[name].text for answer in answers for name in VARIANTS)


def test_the_longest_caption_is_made(lineup: Lineup) -> None:
    (answer,) = caption(lineup, PHOTOS[:1], ("base",), Decoding(max_new_tokens=256))
    assert answer["base"].tokens == 256


def test_the_prefix_reaches_the_model(lineup: Lineup, alone: dict[str, Alone]) -> None:
    (answer,) = caption(lineup, PHOTOS[:1], ("base",), DECODING, prefixes="describe a river")
    assert answer["base"].text != alone["base"].text(PHOTOS[0])


def test_each_image_has_its_own_prompt_and_is_looked_at_once(
    lineup: Lineup, alone: dict[str, Alone]
) -> None:
    prompts = ["answer en river", "caption en", "answer en many trees near the beach"]
    images = [PHOTOS[0], PHOTOS[1], PHOTOS[0]]
    seen: list[int] = []
    tower = lineup.shared("base").loaded.model.model.vision_tower
    watching = tower.register_forward_pre_hook(
        lambda _, args, given: seen.append(len(args[0] if args else given["pixel_values"])),
        with_kwargs=True,
    )
    answers = caption(lineup, images, ("base", "adapter"), DECODING, prefixes=prompts)
    watching.remove()
    assert seen == [2]  # photos, for three rows of each of two variants
    for answer, image, prompt in zip(answers, images, prompts, strict=True):
        for name in ("base", "adapter"):
            assert answer[name].text == alone[name].text(image, prompt=f"<image>{prompt}")
    assert len({answer["base"].text for answer in answers}) > 1
    with pytest.raises(QvlaError, match="2 prompts for 3 photos"):
        caption(lineup, images, ("base",), DECODING, prefixes=prompts[:2])


def test_a_seed_makes_sampling_repeatable_whatever_runs_beside(lineup: Lineup) -> None:
    decoding = Decoding(max_new_tokens=LENGTH, temperature=1.5, top_p=0.95, seed=5)
    (together,) = caption(lineup, PHOTOS[:1], VARIANTS, decoding)
    sampled = {name: one.text for name, one in together.items()}
    for name in VARIANTS:
        torch.manual_seed(1)  # the process's own generator has no say
        (single,) = caption(lineup, PHOTOS[:1], (name,), decoding)
        assert single[name].text == sampled[name]
    *_, last = stream(lineup, PHOTOS[0], VARIANTS, decoding)
    assert {name: partial.text for name, partial in last.items()} == sampled
    batch = caption(lineup, PHOTOS[::-1], ("base", "adapter"), decoding)
    assert {name: one.text for name, one in batch[-1].items()} == {
        name: sampled[name] for name in ("base", "adapter")
    }


def test_other_seeds_and_none_sample_something_else(lineup: Lineup) -> None:
    def texts(seed: int | None) -> list[str]:
        decoding = Decoding(max_new_tokens=LENGTH, temperature=1.5, seed=seed)
        return [answer["base"].text for answer in caption(lineup, PHOTOS, ("base",), decoding)]

    greedy = [answer["base"].text for answer in caption(lineup, PHOTOS, ("base",), DECODING)]
    drawn = [texts(1), texts(2), texts(None), texts(None)]
    assert len({tuple(answers) for answers in [greedy, *drawn]}) == 5


def test_a_stream_grows_to_the_caption(lineup: Lineup) -> None:
    (expected,) = caption(lineup, PHOTOS[:1], VARIANTS, DECODING)
    # A backbone goes on to the next token only when its last ones have been seen.
    by_backbone = {("base", "adapter"): threading.Semaphore(), ("qvla",): threading.Semaphore()}
    base, qvla = by_backbone.values()
    states = [dict.fromkeys(VARIANTS, Partial())]
    with (
        calls_of(lineup, "base", "language_model", then=lambda: base.acquire(timeout=PATIENCE)),
        calls_of(lineup, "qvla", "language_model", then=lambda: qvla.acquire(timeout=PATIENCE)),
    ):
        for state in stream(lineup, PHOTOS[0], VARIANTS, DECODING):
            for names, seen in by_backbone.items():
                if min(state[n].tokens for n in names) > min(states[-1][n].tokens for n in names):
                    seen.release()
            states.append(state)
    assert not any(partial.done for partial in states[1].values())
    for name in VARIANTS:
        assert {state[name].tokens for state in states} == set(range(LENGTH + 1))
        partials = [state[name] for state in states]
        for earlier, later in pairwise(partials):
            assert later.text.startswith(earlier.text)
            assert earlier.tokens <= later.tokens and earlier.seconds <= later.seconds
        first = {one.seconds_to_first_token for one in partials if one.tokens}
        assert len(first) == 1 and 0 < first.pop() <= partials[-1].seconds
        assert partials[-1].done and partials[-1].error is None
        assert (partials[-1].text, partials[-1].tokens) == (expected[name].text, LENGTH)


def test_a_slow_reader_gets_the_newest_state(lineup: Lineup) -> None:
    states = stream(lineup, PHOTOS[0], VARIANTS, DECODING)
    next(states)
    caption(lineup, PHOTOS[:1], VARIANTS, DECODING)  # who came later is not answered sooner
    assert all(partial.done for partial in next(states).values())
    assert list(states) == []


def test_a_stream_with_beams_ends_in_the_caption(lineup: Lineup) -> None:
    decoding = Decoding(max_new_tokens=LENGTH, num_beams=2)
    (expected,) = caption(lineup, PHOTOS[:1], VARIANTS, decoding)
    *_, last = stream(lineup, PHOTOS[0], VARIANTS, decoding)
    assert {name: partial.text for name, partial in last.items()} == {
        name: one.text for name, one in expected.items()
    }


@pytest.mark.parametrize("beams", [1, 2])
def test_closing_a_stream_stops_generation(lineup: Lineup, beams: int) -> None:
    decoding = Decoding(max_new_tokens=256, num_beams=beams)
    begun, closed = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        closed.wait(PATIENCE)

    with calls_of(lineup, "base", "language_model", then=wait) as steps:
        states = stream(lineup, PHOTOS[0], VARIANTS, decoding)
        assert not next(states)["base"].done
        assert begun.wait(PATIENCE)
        states.close()
        closed.set()
        for name in VARIANTS:
            assert lineup.shared(name).lock.acquire(timeout=PATIENCE)
            lineup.shared(name).lock.release()
    assert len(steps) == 1  # the one that was under way
    (answer,) = caption(lineup, PHOTOS[:1], VARIANTS, DECODING)
    assert all(one.tokens == LENGTH for one in answer.values())


def test_a_closed_stream_gives_up_its_place_in_the_queue(lineup: Lineup) -> None:
    with calls_of(lineup, "qvla", "vision_tower") as sights, lineup.shared("qvla").lock:
        states = stream(lineup, PHOTOS[0], ("qvla",), DECODING)
        assert next(states) == {"qvla": Partial()}
        (waiting,) = [one for one in threading.enumerate() if one.name == "captions"]
        states.close()
        waiting.join(PATIENCE)
        assert not waiting.is_alive()  # though the place has not become free
    assert sights == []
    assert not lineup.shared("qvla").lock.locked()


@contextmanager
def failing(lineup: Lineup, variant: str, error: Exception) -> Iterator[None]:
    """Makes the third decoding step on a variant's backbone fail."""
    calls = []

    def fail(*_: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise error

    norms = everywhere(lineup, variant, "language_model.norm")
    handles = [norm.register_forward_hook(fail) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize(
    "broken", [("base", "adapter"), pytest.param(("qvla",), marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "Memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 64 bytes"), "Memory ran out"),
        (ValueError("some fault of ours"), "log"),
    ],
)
def test_what_fails_on_one_backbone_does_not_stop_the_other(
    lineup: Lineup, broken: tuple[str, ...], error: Exception, words: str
) -> None:
    (expected,) = caption(lineup, PHOTOS[:1], VARIANTS, DECODING)
    with failing(lineup, broken[0], error):
        *_, last = stream(lineup, PHOTOS[0], VARIANTS, DECODING)
    for name, partial in last.items():
        assert partial.done
        if name in broken:
            assert words in partial.error and str(error) not in partial.error
            assert partial.tokens == 2 and expected[name].text.startswith(partial.text)
        else:
            assert partial.error is None and partial.text == expected[name].text
    *_, after = stream(lineup, PHOTOS[0], VARIANTS, DECODING)
    assert {name: partial.text for name, partial in after.items()} == {
        name: one.text for name, one in expected.items()
    }


def test_a_batch_too_large_for_memory_is_an_error_in_words(lineup: Lineup) -> None:
    with (
        failing(lineup, "qvla", torch.OutOfMemoryError("CUDA out of memory")),
        pytest.raises(CaptioningError, match="fewer photos"),
    ):
        caption(lineup, PHOTOS, VARIANTS, DECODING)
    assert len(caption(lineup, PHOTOS, VARIANTS, DECODING)) == len(PHOTOS)


def test_a_variant_that_is_not_there_says_so_in_the_stream(weights: Weights) -> None:
    lineup = Lineup.load(weights.model, precision="fp32", device="cpu")
    *_, last = stream(lineup, PHOTOS[0], VARIANTS, DECODING)
    assert last["base"].text and last["base"].error is None
    for name in ("adapter", "qvla"):
        assert last[name] == Partial(done=True, error=lineup.variant(name).reason)
    (only,) = stream(lineup, PHOTOS[0], ("qvla",), DECODING)
    assert only["qvla"].done and only["qvla"].error


def test_waiting_for_another_request_is_not_counted(
    lineup: Lineup, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.perf_counter()
    for module, name in ((cohort, "perf_counter"), (desk, "stream_clock"), (watch, "stream_clock")):
        monkeypatch.setattr(module, name, lambda *_: now + next(ticks))
    ticks = count()
    with lineup.shared("base").lock:
        states = stream(lineup, PHOTOS[0], ("base", "qvla"), DECODING)
        while not next(states)["qvla"].done:
            pass
        ticks = count(1000)  # so much later the place is free
    *_, last = states
    assert 0 < last["base"].seconds < 500


def test_no_photos_give_no_captions(lineup: Lineup) -> None:
    assert caption(lineup, [], VARIANTS, DECODING) == []


@pytest.mark.parametrize("variants", [(), ("Base",), "base", ("base", "real")])
def test_unknown_variants_are_refused(lineup: Lineup, variants: object) -> None:
    for ask in (
        lambda: caption(lineup, PHOTOS[:1], variants, DECODING),
        lambda: stream(lineup, PHOTOS[0], variants, DECODING),
    ):
        with pytest.raises(QvlaError, match="base, adapter, qvla"):
            ask()


def test_a_photo_that_is_not_rgb_is_refused(lineup: Lineup) -> None:
    grey = PHOTOS[0].convert("L")
    with pytest.raises(QvlaError, match="open_image"):
        caption(lineup, [grey], VARIANTS, DECODING)
    with pytest.raises(QvlaError, match="open_image"):
        stream(lineup, grey, VARIANTS, DECODING)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_the_log_probability_is_the_models_own_of_what_was_said(
    lineup: Lineup, alone: dict[str, Alone], temperature: float
) -> None:
    decoding = Decoding(max_new_tokens=LENGTH, temperature=temperature, top_p=0.9, seed=3)
    for image, answer in zip(PHOTOS, caption(lineup, PHOTOS, VARIANTS, decoding), strict=True):
        for name, said in answer.items():
            assert said.tokens == LENGTH  # none of them ended by itself
            own = alone[name].likelihood(image, said.text)
            assert said.log_probability == pytest.approx(own, abs=0.01)
    *_, last = stream(lineup, PHOTOS[-1], VARIANTS, decoding)
    for name in VARIANTS:
        assert last[name].log_probability == pytest.approx(answer[name].log_probability, abs=1e-4)
    beams = Decoding(max_new_tokens=LENGTH, num_beams=2)
    (answer,) = caption(lineup, PHOTOS[:1], ("base",), beams)
    assert answer["base"].log_probability is None


def test_captions_are_plain_values(lineup: Lineup) -> None:
    (answer,) = caption(lineup, PHOTOS[:1], ("base",), DECODING)
    *values, unfamiliar = astuple(answer["base"])
    assert [type(value) for value in values] == [str, int, *[float] * 3]
    assert unfamiliar is None  # this model has no record of its training photos
    assert isinstance(answer["base"], Caption)
