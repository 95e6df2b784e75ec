"""The generations under way on one backbone: begun together, then a token a step for all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from transformers import LogitsProcessorList, StoppingCriteriaList

from qvla.captioning.cohort import Cohort, Row
from qvla.captioning.decoding import Decoding
from qvla.captioning.generation import Cancelled, Caption, Generation, OutOfMemoryError
from qvla.captioning.prompts import encode_images, encode_text, task_of
from qvla.captioning.shared_backbone import Batch, SharedBackbone
from qvla.captioning.sharing import captioning_turn
from qvla.captioning.watch import Watch, up_to_end
from qvla.faults import is_out_of_memory
from qvla.methods.rows import names_of_rows
from qvla.models.backbone import Backbone
from qvla.models.families import family_of
from qvla.records.measure import stream_clock

PATIENCE = 1.0  # seconds between looks at whether who waits for the backbone has left

Pass = tuple[Generation, Batch, list[int]]  # who asks, its contenders, about which of its images
Key = tuple[int, str | None]  # the identity of a module tree; an adapter, if only that answers


class Desk:
    """Between `open` and `close` it holds the backbone's lock and the device.

    One thread works at it. What fails is told to those whom it concerns, never raised.
    """

    def __init__(self, shared: SharedBackbone) -> None:
        self.shared = shared
        self._under_way: list[Generation] = []
        self._cohorts: dict[Key, Cohort] = {}
        self._held = ExitStack()

    @property
    def busy(self) -> bool:
        return bool(self._under_way)

    @property
    def rows(self) -> int:
        """Answers under way."""
        return sum(len(cohort.rows) for cohort in self._cohorts.values())

    def open(self, seconds: float) -> bool:
        """Waits for the backbone for so long at most; whether it was to be had.

        Raises what keeps the device from being had, and then holds nothing.
        """
        if not self.shared.lock.acquire(timeout=seconds):
            return False
        self._held.callback(self.shared.lock.release)
        try:
            self._held.enter_context(captioning_turn(self.shared.device_lock))
            if self.shared.device != "cpu":
                self._held.enter_context(_beside_others(self.shared.stream))
        except BaseException:
            self._held.close()
            raise
        return True

    def close(self) -> None:
        self._cohorts.clear()
        self.shared.graphs.rest()
        self._held.close()

    def begin(self, generations: Sequence[Generation]) -> None:
        """Looks at all photos at once and says the first token of every answer."""
        able = [one for one in generations if self._is_able(one)]
        try:
            with torch.inference_mode():
                self._begin(able)
        except Exception as error:
            self._forget(able)
            if len(able) > 1:  # perhaps only together
                for one in able:
                    self.begin([one])
                return
            self._fail(able, error)
        else:
            self._under_way += able
            self._hear()

    def step(self) -> None:
        """Says the next token of every row, and tells of it."""
        left = [one for one in self._under_way if one.cancelled.is_set()]
        if left:
            self._forget(left)
            self._fail(left, Cancelled())
        for cohort in list(self._cohorts.values()):
            if not cohort.rows:
                continue
            try:
                with torch.inference_mode():
                    cohort.step()
            except Exception as error:
                hit = [
                    one
                    for one in self._under_way
                    if any(row in cohort.rows for row in one.rows.values())
                ]
                self._forget(hit)
                self._fail(hit, error)
        self._hear()

    def abort(self, error: Exception) -> None:
        """Ends everything that is under way."""
        hit = list(self._under_way)
        self._forget(hit)
        self._fail(hit, error)

    # ---- beginning ------------------------------------------------------------------------------

    def _is_able(self, generation: Generation) -> bool:
        """Whether anything of it is left to do, once what it needs has been loaded."""
        try:
            if generation.cancelled.is_set():
                raise Cancelled
            bring = generation.bring
            generation.lack(bring(self.shared, generation.variants) if bring is not None else {})
        except Exception as error:
            generation.fail(error)
            return False
        if not generation.able or not generation.images:
            generation.ended.set()
            return False
        return True

    def _begin(self, generations: Sequence[Generation]) -> None:
        if not generations:
            return
        backbone = self.shared.loaded
        passes = [(one, *each) for one in generations for each in one.passes()]
        start = stream_clock(backbone.device)
        distinct = {id(image): image for one in generations for image in one.images}
        places = {key: place for place, key in enumerate(distinct)}
        pixels = encode_images(backbone.processor, list(distinct.values())).to(backbone.device)
        encoded = stream_clock(backbone.device) - start
        trees: dict[int, list[Pass]] = {}
        for each in passes:
            trees.setdefault(id(each[1].model), []).append(each)
        seen, looked = None, 0.0  # by the base as it is
        for own in trees.values():
            batch = own[0][1]
            features, took = seen, looked
            if batch.changes_sight or features is None:
                begin = stream_clock(backbone.device)
                looking = batch.model if batch.changes_sight else backbone.model
                features = family_of(backbone.model.config).image_features(looking, pixels)
                took = encoded + stream_clock(backbone.device) - begin
                if not batch.changes_sight:
                    seen, looked = features, took
                    if self.shared.familiarity is not None:
                        far = self.shared.familiarity.unfamiliar(features)
                        for one in generations:
                            one.unfamiliar = [far[places[id(image)]] for image in one.images]
            rows = [places[id(one.images[index])] for one, _, asked in own for index in asked]
            self._answer(own, features[rows], took)

    def _answer(self, passes: Sequence[Pass], seen: torch.Tensor, looked: float) -> None:
        """Passes through one module tree; `seen` (N, T, D) are the images that they are about."""
        family = family_of(self.shared.loaded.model.config)
        together: list[tuple[Pass, torch.Tensor]] = []
        start = 0
        for each in passes:
            generation, batch, asked = each
            own = seen[start : start + len(asked)]
            start += len(asked)
            own = torch.cat([own] * len(batch.contenders))
            if family.one_text and generation.decoding.num_beams == 1:
                together.append((each, own))
            else:
                self._answer_whole(each, own, looked)
        if together:
            self._join(together, looked)

    def _join(self, passes: Sequence[tuple[Pass, torch.Tensor]], looked: float) -> None:
        """Rows that come, contender by contender, into the batch of their module tree.

        Those of adapters that cannot share a recorded step go into a batch each.
        """
        rows: list[Row] = []
        prefixes: list[str] = []
        for (generation, batch, asked), _ in passes:
            decoding = generation.decoding
            own = [generation.prefixes[index] for index in asked] * len(batch.contenders)
            named = _names(batch, own, len(asked))
            names: Sequence[str | None] = named or [None] * len(own)
            keys = [(name, index) for name in batch.contenders for index in asked]
            choose = {name: decoding.processors() for name in batch.contenders}
            for key, name in zip(keys, names, strict=True):
                row = Row(decoding.max_new_tokens, choose[key[0]], name, looked)
                generation.rows[key] = row
                rows.append(row)
            prefixes += own
        model = passes[0][0][1].model
        seen = torch.cat([features for _, features in passes])
        if not self.shared.graphs.part_adapters(model, seen.device):
            self._enter(model, None, rows, prefixes, seen)
            return
        for adapter in dict.fromkeys(row.name for row in rows):
            places = [place for place, row in enumerate(rows) if row.name == adapter]
            texts = [prefixes[place] for place in places]
            self._enter(model, adapter, [rows[place] for place in places], texts, seen[places])

    def _enter(
        self,
        model: Any,
        adapter: str | None,
        rows: Sequence[Row],
        prefixes: Sequence[str],
        seen: torch.Tensor,
    ) -> None:
        """Rows into the batch of a module tree, or of one adapter of it."""
        backbone = self.shared.loaded
        key = (id(model), adapter)
        if key not in self._cohorts:
            held = self.shared.graphs.held(model, backbone.device, adapter)
            self._cohorts[key] = Cohort(backbone, model, held)
        prompt = encode_text(backbone.processor, prefixes).to(backbone.device)
        self._cohorts[key].join(rows, prompt, seen)

    def _answer_whole(self, one: Pass, seen: torch.Tensor, looked: float) -> None:
        """Beams, and models that do not write behind their prompt, by their own `generate`."""
        generation, batch, asked = one
        backbone, count = self.shared.loaded, len(asked)
        family, decoding = family_of(backbone.model.config), generation.decoding
        start = stream_clock(backbone.device) - looked
        prefixes = [generation.prefixes[index] for index in asked] * len(batch.contenders)
        ends = family.end_tokens(backbone.model, backbone.processor)
        beams = decoding.num_beams > 1
        watch = Watch(len(prefixes), ends, beams, backbone.device, generation.cancelled)
        names = _names(batch, prefixes, count)
        mixed = {} if names is None else {"adapter_names": names}
        tokens = family.generate(
            batch.model,
            encode_text(backbone.processor, prefixes).to(backbone.device),
            seen,
            **mixed,
            do_sample=False,
            num_beams=decoding.num_beams,
            max_new_tokens=decoding.max_new_tokens,
            logits_processor=LogitsProcessorList([watch.given, *decoding.processors()]),
            stopping_criteria=StoppingCriteriaList([watch]),
        )
        end = stream_clock(backbone.device)
        if generation.cancelled.is_set():
            raise Cancelled
        keys = [(name, index) for name in batch.contenders for index in asked]
        for key, said, row in zip(keys, tokens.tolist(), watch.rows, strict=True):
            own = up_to_end(said, ends)
            caption = Caption(
                generation.text(own),
                len(own),
                row.first - start,
                (row.end or end) - start,
                None if beams else row.surprise / -len(own),
            )
            generation.answer(*key, caption)

    # ---- ending ---------------------------------------------------------------------------------

    def _hear(self) -> None:
        for one in self._under_way:
            one.hear()
        self._under_way = [one for one in self._under_way if not one.ended.is_set()]

    def _forget(self, generations: Sequence[Generation]) -> None:
        """Takes their rows out of every batch."""
        for cohort in self._cohorts.values():
            cohort.drop([row for one in generations for row in one.rows.values()])
        for one in generations:
            one.rows.clear()
        self._under_way = [one for one in self._under_way if one not in generations]

    def _fail(self, generations: Sequence[Generation], error: Exception) -> None:
        for one in generations:
            one.fail(self._in_words(error))

    def _in_words(self, error: Exception) -> Exception:
        if not is_out_of_memory(error):
            return error
        backbone = self.shared.loaded
        if backbone.device.type == "cuda":
            torch.cuda.empty_cache()
        return OutOfMemoryError(
            f"Memory ran out on {backbone.device} while captioning in {backbone.precision.value}: "
            "use fewer photos at once, fewer beams or a shorter maximum length."
        )


def answer_now(generation: Generation) -> dict[str, list[Caption]]:
    """The captions of each variant, made in this thread. Raises what keeps them from coming."""
    desk = Desk(generation.shared)
    while not desk.open(PATIENCE):
        if generation.cancelled.is_set():
            raise Cancelled
    try:
        desk.begin([generation])
        while desk.busy:
            desk.step()
    finally:
        desk.close()
    return generation.result()


def greedy(
    backbone: Backbone,
    model: Any,
    images: Sequence[Image.Image],
    prefixes: str | Sequence[str],
    max_new_tokens: int,
) -> list[str]:
    """Greedy answers to RGB images by a model over the backbone's weights, in evaluation mode,
    whatever of it was wrapped or changed; `prefixes` as of `Generation`. Raises OutOfMemoryError.
    """
    own = replace(backbone, model=model)
    device = str(backbone.device)
    shared = SharedBackbone(backbone.name, backbone.precision, device, backbone=own)
    decoding = Decoding(max_new_tokens=max_new_tokens)
    answers = answer_now(Generation(shared, ["model"], images, decoding, prefixes))
    return [answer.text for answer in answers["model"]]


@contextmanager
def _beside_others(own: torch.cuda.Stream) -> Iterator[None]:
    """Has CUDA work in a stream of its own, after what came before and before what comes after."""
    others = torch.cuda.current_stream()
    own.wait_stream(others)
    with torch.cuda.stream(own):
        yield
    others.wait_stream(own)


def _names(batch: Batch, prefixes: Sequence[str], count: int) -> list[str] | None:
    """What names the adapter of each row, where the rows of a batch may differ in that."""
    own = batch.row_adapters and [name for name in batch.row_adapters for _ in range(count)]
    return names_of_rows(batch.model, list(map(task_of, prefixes)), own)
