"""Requests that come while others are answered: together in one batch, each as if it were alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from qvla.captioning.contenders import VARIANTS
from qvla.captioning.decoding import Decoding
from qvla.captioning.engine import Partial, caption, stream
from qvla.captioning.generation import OutOfMemoryError
from qvla.captioning.lineup import Lineup
from qvla.captioning.runner import runner_of
from tests.support.alone import Alone, Weights, photos
from tests.support.waiting import PATIENCE

LENGTH = 12
PHOTOS = photos(6, seed=2)
PROMPTS = ("caption en", "answer en many trees near the beach", "describe a river")
FLOAT = ("base", "adapter")


class Steps:
    """Stops the decoder of a backbone before each of its forwards until it is let go on."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.looked: list[int] = []
        self._free = threading.Semaphore(0)
        self._begun = threading.Semaphore(0)

    def __deepcopy__(self, _: object) -> Steps:
        """A view of the weights that is made meanwhile has the same hooks."""
        return self

    def before(self, _: torch.nn.Module, args: tuple, given: dict) -> None:
        self.sizes.append(len(given["inputs_embeds"]))
        self._begun.release()
        assert self._free.acquire(timeout=PATIENCE)

    def see(self, _: torch.nn.Module, args: tuple, given: dict) -> None:
        self.looked.append(len(args[0] if args else given["pixel_values"]))

    def wait(self) -> None:
        """Until the next forward is about to be taken."""
        assert self._begun.acquire(timeout=PATIENCE)

    def go(self, steps: int) -> None:
        """Takes so many forwards, the one that was waited for among them."""
        for step in range(steps):
            self._free.release()
            if step < steps - 1:
                self.wait()

    def end(self) -> None:
        self._free.release(10_000)


@contextmanager
def held(lineup: Lineup) -> Iterator[Steps]:
    shared, steps = lineup.shared("base"), Steps()
    trees = [shared.loaded.model, *_views(lineup)]
    handles = []
    for tree in trees:
        for name, module in tree.named_modules():
            if name.endswith("language_model"):
                handles.append(module.register_forward_pre_hook(steps.before, with_kwargs=True))
            if name.endswith("vision_tower"):
                handles.append(module.register_forward_pre_hook(steps.see, with_kwargs=True))
    try:
        yield steps
    finally:
        steps.end()
        for handle in handles:
            handle.remove()


def wait_for(lineup: Lineup, number: int) -> None:
    """Until so many requests wait for the float backbone."""
    shared, end = lineup.shared("base"), time.monotonic() + PATIENCE
    while runner_of(shared).waiting(shared) != number:
        assert time.monotonic() < end
        time.sleep(0.01)


def _views(lineup: Lineup) -> list[torch.nn.Module]:
    return [view.model for view in lineup.shared("base").views]


class Asked(threading.Thread):
    """A request of somebody else, made in a thread of its own."""

    def __init__(self, lineup: Lineup, *arguments: object) -> None:
        super().__init__(daemon=True)
        self._lineup, self._arguments = lineup, arguments
        self.answers: list[dict] = []
        self.start()

    def run(self) -> None:
        self.answers = caption(self._lineup, *self._arguments)

    def texts(self) -> list[dict[str, str]]:
        self.join(PATIENCE)
        return [{name: one.text for name, one in answer.items()} for answer in self.answers]


def test_who_comes_later_joins_and_everybody_is_answered_as_if_alone(
    lineup: Lineup, alone: dict[str, Alone]
) -> None:
    decoding = Decoding(max_new_tokens=LENGTH)
    with held(lineup) as steps:
        first = Asked(lineup, PHOTOS[:1], FLOAT, decoding, PROMPTS[0])
        steps.wait()
        # These come during the first forward, with prompts of other lengths.
        later = [Asked(lineup, [PHOTOS[n]], FLOAT, decoding, PROMPTS[n % 3]) for n in (1, 2)]
        wait_for(lineup, 2)
        steps.go(3)  # its prompt, its second token, then both prompts at once
        steps.wait()
        last = Asked(lineup, PHOTOS[3:5], ("adapter",), decoding, PROMPTS[1])
        wait_for(lineup, 1)
        steps.end()
        said = [one.texts() for one in (first, *later, last)]
    assert steps.looked[:3] == [1, 2, 2]  # photos that came together are looked at together
    assert steps.sizes[:4] == [2, 2, 4, 6] and 2 * 3 + 2 in steps.sizes
    photos_asked = [[0], [1], [2], [3, 4]]
    prompts = [PROMPTS[0], PROMPTS[1], PROMPTS[2], PROMPTS[1]]
    for answers, numbers, prompt in zip(said, photos_asked, prompts, strict=True):
        assert len(answers) == len(numbers)
        for answer, number in zip(answers, numbers, strict=True):
            for name, text in answer.items():
                photo, asked = PHOTOS[number], f"<image>{prompt}"
                assert text == alone[name].text(photo, prompt=asked, max_new_tokens=LENGTH)


def test_rows_of_any_length_and_decoding_come_and_go(lineup: Lineup) -> None:
    """Greedy and sampled, short and long, in any order: each as when nothing else is under way."""
    decodings = [
        Decoding(max_new_tokens=3),
        Decoding(max_new_tokens=LENGTH, temperature=1.5, top_p=0.9, seed=4),
        Decoding(max_new_tokens=LENGTH),
        Decoding(max_new_tokens=1),
        Decoding(max_new_tokens=LENGTH, temperature=0.7, seed=9),
        Decoding(max_new_tokens=7),
    ]
    asked = list(zip(PHOTOS, decodings, PROMPTS * 2, strict=True))

    def texts(answers: list[dict]) -> list[tuple[str, str]]:
        return [(name, one.text) for answer in answers for name, one in answer.items()]

    expected = [texts(caption(lineup, [photo], FLOAT, *rest)) for photo, *rest in asked]
    for order in (range(6), reversed(range(6))):
        numbers = list(order)
        with held(lineup) as steps:
            begun = {}
            for number in numbers:
                photo, decoding, prompt = asked[number]
                begun[number] = Asked(lineup, [photo], FLOAT, decoding, prompt)
                steps.wait()
                steps.go(1)
            steps.end()
            for one in begun.values():
                one.join(PATIENCE)
        assert [texts(begun[number].answers) for number in range(6)] == expected


def test_who_leaves_frees_the_place_and_the_others_go_on(
    lineup: Lineup, alone: dict[str, Alone]
) -> None:
    decoding = Decoding(max_new_tokens=LENGTH)
    with held(lineup) as steps:
        leaving = stream(lineup, PHOTOS[0], FLOAT, Decoding(max_new_tokens=256))
        assert not next(leaving)["base"].done
        steps.wait()
        staying = Asked(lineup, PHOTOS[1:2], FLOAT, decoding)
        wait_for(lineup, 1)
        steps.go(3)
        steps.wait()
        leaving.close()
        steps.end()
        (answer,) = staying.texts()
    assert steps.sizes[-1] == 2  # the rows of who stayed
    assert len(steps.sizes) < 2 * LENGTH + 4
    for name, text in answer.items():
        assert text == alone[name].text(PHOTOS[1], max_new_tokens=LENGTH)


def test_a_fault_of_one_step_is_told_to_all_in_it_and_to_nobody_else(lineup: Lineup) -> None:
    decoding = Decoding(max_new_tokens=LENGTH)
    (expected,) = caption(lineup, PHOTOS[:1], VARIANTS, decoding)
    norms = [
        module
        for tree in (lineup.shared("base").loaded.model, *_views(lineup))
        for name, module in tree.named_modules()
        if name.endswith("language_model.norm")
    ]
    calls: list[int] = []

    def fail(*_: object) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handles = [norm.register_forward_hook(fail) for norm in norms]
    try:
        states = [stream(lineup, PHOTOS[number], VARIANTS, decoding) for number in (0, 1)]
        lasts: list[dict[str, Partial]] = [list(one)[-1] for one in states]
    finally:
        for handle in handles:
            handle.remove()
    failed = [last for last in lasts if last["base"].error]
    assert failed
    for last in failed:
        assert "Memory ran out" in (last["base"].error or "") and last["adapter"].error
    assert lasts[0]["qvla"].error is None and lasts[0]["qvla"].text == expected["qvla"].text
    assert caption(lineup, PHOTOS[:1], VARIANTS, decoding)[0]["base"].text == expected["base"].text


def test_a_device_that_cannot_be_had_is_told_and_the_next_is_answered(
    lineup: Lineup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> None:
        raise RuntimeError("no such device")

    [before] = caption(lineup, PHOTOS[:1], ["base"], Decoding(LENGTH))
    with monkeypatch.context() as patch:
        patch.setattr("qvla.captioning.desk.captioning_turn", fails)
        with pytest.raises(RuntimeError, match="no such device"):
            caption(lineup, PHOTOS[:1], ["base"], Decoding(LENGTH))
    [after] = caption(lineup, PHOTOS[:1], ["base"], Decoding(LENGTH))
    assert after["base"].text == before["base"].text


def test_what_does_not_fit_together_is_begun_one_by_one(
    lineup: Lineup, alone: dict[str, Alone]
) -> None:
    """A tower that takes one photo at a time, as if memory ended there."""

    def refuse(_: torch.nn.Module, args: tuple, given: dict) -> None:
        if len(args[0] if args else given["pixel_values"]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    decoding = Decoding(max_new_tokens=4)
    with held(lineup) as steps:
        first = Asked(lineup, PHOTOS[:1], ("base",), decoding)
        steps.wait()
        tower = lineup.shared("base").loaded.model.get_submodule("model.vision_tower")
        handle = tower.register_forward_pre_hook(refuse, with_kwargs=True)
        later = [Asked(lineup, [PHOTOS[n]], ("base",), decoding) for n in (1, 2)]
        wait_for(lineup, 2)
        steps.end()
        said = [one.texts() for one in (first, *later)]
        with pytest.raises(OutOfMemoryError, match="fewer photos"):
            caption(lineup, PHOTOS[:2], ("base",), decoding)
        handle.remove()
    for (answer,), photo in zip(said, PHOTOS[:3], strict=True):
        assert answer["base"] == alone["base"].text(photo, max_new_tokens=4)


def test_a_change_of_adapters_waits_for_who_is_answered_and_goes_before_who_comes(
    weights: Weights, tmp_path: Path
) -> None:
    lineup = Lineup.load(weights.model, adapter=weights.adapter, precision="fp32", device="cpu")
    decoding = Decoding(max_new_tokens=LENGTH)
    before = caption(lineup, PHOTOS[:1], FLOAT, decoding)[0]
    with held(lineup) as steps:
        first = Asked(lineup, PHOTOS[:1], FLOAT, decoding)
        steps.wait()
        swap = threading.Thread(target=lineup.swap_adapter, args=("adapter", weights.nf4_adapter))
        swap.start()
        while not lineup.shared("base").lock.wanted:
            time.sleep(0.01)
        later = Asked(lineup, PHOTOS[:1], FLOAT, decoding)
        wait_for(lineup, 1)
        steps.end()
        (old,), (new,) = first.texts(), later.texts()
        swap.join(PATIENCE)
    assert old == {name: one.text for name, one in before.items()}
    assert max(steps.sizes) == 2  # the later one did not join
    after = Lineup.load(weights.model, adapter=weights.nf4_adapter, precision="fp32", device="cpu")
    assert new == {n: o.text for n, o in caption(after, PHOTOS[:1], FLOAT, decoding)[0].items()}
    assert new["adapter"] != old["adapter"]
