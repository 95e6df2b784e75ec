"""Which weights answer under which name: held against each variant loaded alone."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import qvla.captioning.shared_backbone
from qvla.captioning.contenders import VARIANTS
from qvla.captioning.decoding import Decoding
from qvla.captioning.engine import caption, stream
from qvla.captioning.lineup import Lineup
from qvla.errors import QvlaError
from qvla.models.adapters import AdapterError
from qvla.models.backbone import Backbone, Precision
from qvla.models.checkpoint import BackboneError
from tests.support.alone import LENGTH, Alone, Weights, clear_photos, save_adapter
from tests.support.held import held
from tests.support.tiny import build_tiny
from tests.support.waiting import PATIENCE

DECODING = Decoding(max_new_tokens=LENGTH)


@pytest.fixture(scope="module")
def images(alone: dict[str, Alone]) -> list[Image.Image]:
    return clear_photos([alone["qvla"], alone["other qvla"]], 3)


@pytest.fixture(scope="module")
def expected(alone: dict[str, Alone], images: list[Image.Image]) -> dict[str, list[str]]:
    """Texts for the images of each set of weights loaded alone."""
    return {name: [model.text(image) for image in images] for name, model in alone.items()}


def texts(lineup: Lineup, images: list[Image.Image]) -> dict[str, list[str]]:
    available = [variant.name for variant in lineup.variants() if variant.available]
    captions = caption(lineup, images, available, DECODING)
    return {name: [answers[name].text for answers in captions] for name in available}


def test_the_variants_loaded_alone_differ(
    expected: dict[str, list[str]], images: list[Image.Image]
) -> None:
    # otherwise the tests below could not tell one from another
    for index in range(len(images)):
        assert len({answers[index] for answers in expected.values()}) == len(expected)
    assert all(len(set(answers)) == len(images) for answers in expected.values())


def test_each_variant_answers_as_if_loaded_alone(
    lineup: Lineup, expected: dict[str, list[str]], images: list[Image.Image]
) -> None:
    assert texts(lineup, images) == {name: expected[name] for name in VARIANTS}


def test_swapping_changes_the_one_variant_and_no_other(
    lineup: Lineup, weights: Weights, expected: dict[str, list[str]], images: list[Image.Image]
) -> None:
    lineup.swap_adapter("adapter", weights.other_adapter)
    after_one = texts(lineup, images)
    assert after_one == {
        "base": expected["base"],
        "adapter": expected["other adapter"],
        "qvla": expected["qvla"],
    }
    assert lineup.variant("adapter").adapter == "second"
    lineup.swap_adapter("qvla", weights.other_nf4_adapter)
    assert texts(lineup, images) == {**after_one, "qvla": expected["other qvla"]}
    lineup.swap_adapter("adapter", weights.adapter)
    lineup.swap_adapter("qvla", weights.nf4_adapter)
    assert texts(lineup, images) == {name: expected[name] for name in VARIANTS}


def test_concurrent_requests_get_their_own_answers(
    lineup: Lineup, expected: dict[str, list[str]], images: list[Image.Image]
) -> None:
    requests = [
        (index, names)
        for index in range(len(images))
        for names in (("base",), ("adapter", "qvla"), ("qvla", "adapter", "base"))
    ] * 2

    def ask(request: tuple[int, tuple[str, ...]]) -> bool:
        index, names = request
        if index % 2:
            *_, last = stream(lineup, images[index], names, DECODING)
            got = {name: partial.text for name, partial in last.items()}
        else:
            (answers,) = caption(lineup, [images[index]], names, DECODING)
            got = {name: answer.text for name, answer in answers.items()}
        return got == {name: expected[name][index] for name in names}

    with ThreadPoolExecutor(max_workers=6) as pool:
        assert all(pool.map(ask, requests))


def test_swapping_while_requests_run_gives_the_old_answer_or_the_new_one(
    lineup: Lineup, weights: Weights, expected: dict[str, list[str]], images: list[Image.Image]
) -> None:
    stop = threading.Event()
    seen: list[tuple[str, str]] = []

    def ask() -> None:
        while not stop.is_set():
            (answers,) = caption(lineup, images[:1], ("base", "adapter"), DECODING)
            seen.append((answers["base"].text, answers["adapter"].text))

    with ThreadPoolExecutor(max_workers=2) as pool:
        futures = [pool.submit(ask) for _ in range(2)]
        try:
            for folder in [weights.other_adapter, weights.adapter] * 3:
                lineup.swap_adapter("adapter", folder)
        finally:
            stop.set()
        for future in futures:
            future.result()
    assert {base for base, _ in seen} == {expected["base"][0]}
    assert {adapted for _, adapted in seen} <= {
        expected["adapter"][0],
        expected["other adapter"][0],
    }


def test_a_swap_waits_for_the_generation_under_way(
    lineup: Lineup, weights: Weights, images: list[Image.Image]
) -> None:
    long = Decoding(max_new_tokens=20)
    (before,) = caption(lineup, images[:1], ("adapter",), long)
    with held(lineup, 3) as go_on:
        states = stream(lineup, images[0], ("adapter",), long)
        assert next(state for state in states if state["adapter"].tokens)
        swap = threading.Thread(target=lineup.swap_adapter, args=("adapter", weights.other_adapter))
        swap.start()
        swap.join(0.2)
        assert swap.is_alive()
        go_on.set()
        *_, last = states
    swap.join(PATIENCE)
    assert not swap.is_alive()
    assert last["adapter"].text == before["adapter"].text
    (after,) = caption(lineup, images[:1], ("adapter",), long)
    assert after["adapter"].text != before["adapter"].text


@pytest.mark.parametrize("fault", ["missing", "other size", "damaged", "incomplete"])
def test_a_bad_adapter_leaves_the_old_one(
    lineup: Lineup,
    weights: Weights,
    expected: dict[str, list[str]],
    fault: str,
    tmp_path: Path,
    images: list[Image.Image],
) -> None:
    before = lineup.variants()
    for variant in ("adapter", "qvla"):
        with pytest.raises(AdapterError) as error:
            lineup.swap_adapter(variant, _bad_adapter(fault, weights, tmp_path / variant))
        assert str(error.value).endswith(".") and "\n" not in str(error.value)
    assert lineup.variants() == before
    assert texts(lineup, images) == {name: expected[name] for name in VARIANTS}
    lineup.swap_adapter("adapter", weights.other_adapter)
    assert texts(lineup, images)["adapter"] == expected["other adapter"]


def _bad_adapter(fault: str, weights: Weights, folder: Path) -> Path:
    if fault == "missing":
        return folder
    if fault == "other size":
        wide = build_tiny(folder / "wide", hidden=128)
        return save_adapter(wide, folder / "adapter", seed=5)
    shutil.copytree(weights.other_adapter, folder)
    tensors = folder / "adapter_model.safetensors"
    if fault == "damaged":
        tensors.write_bytes(tensors.read_bytes()[:-100])
    else:
        kept = dict(list(load_file(tensors).items())[2:])
        save_file(kept, tensors, metadata={"format": "pt"})
    return folder


def test_without_adapters_the_base_answers(
    weights: Weights, expected: dict[str, list[str]], images: list[Image.Image]
) -> None:
    lineup = Lineup.load(weights.model, precision="fp32", device="cpu")
    assert [variant.available for variant in lineup.variants()] == [True, False, False]
    for name in ("adapter", "qvla"):
        assert lineup.variant(name).reason
        assert lineup.variant(name).weight_bytes == 0
        with pytest.raises(QvlaError, match="not available"):
            caption(lineup, images[:1], ("base", name), DECODING)
    assert texts(lineup, images) == {"base": expected["base"]}
    lineup.swap_adapter("adapter", weights.adapter)
    lineup.swap_adapter("qvla", weights.nf4_adapter)
    assert texts(lineup, images) == {name: expected[name] for name in VARIANTS}


def test_bad_adapters_leave_the_base_and_a_reason(
    weights: Weights, expected: dict[str, list[str]], tmp_path: Path, images: list[Image.Image]
) -> None:
    lineup = Lineup.load(
        weights.model,
        adapter=tmp_path / "nowhere",
        nf4_adapter=_bad_adapter("damaged", weights, tmp_path / "bad"),
        precision="fp32",
        device="cpu",
    )
    assert [variant.available for variant in lineup.variants()] == [True, False, False]
    assert "nowhere" in lineup.variant("adapter").reason
    assert lineup.variant("qvla").reason.endswith(".")
    assert texts(lineup, images) == {"base": expected["base"]}


def test_when_nf4_cannot_be_loaded_base_and_adapter_answer(
    weights: Weights,
    expected: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    images: list[Image.Image],
) -> None:
    load = qvla.captioning.shared_backbone.load_backbone

    def refuse_nf4(name: str, precision: Precision, **options: str) -> Backbone:
        if precision is Precision.NF4:
            raise BackboneError("There is no bitsandbytes for this machine.")
        return load(name, precision, **options)

    with monkeypatch.context() as patch:
        patch.setattr(qvla.captioning.shared_backbone, "load_backbone", refuse_nf4)
        lineup = Lineup.load(
            weights.model,
            adapter=weights.adapter,
            nf4_adapter=weights.nf4_adapter,
            precision="fp32",
            device="cpu",
        )
        assert lineup.variant("qvla").reason == "There is no bitsandbytes for this machine."
        with pytest.raises(BackboneError, match="bitsandbytes"):
            lineup.swap_adapter("qvla", weights.nf4_adapter)
    assert texts(lineup, images) == {name: expected[name] for name in ("base", "adapter")}
    lineup.swap_adapter("qvla", weights.nf4_adapter)  # the fault is mended
    assert texts(lineup, images) == {name: expected[name] for name in VARIANTS}


@pytest.mark.parametrize(
    ("asked", "loaded"),
    [
        (("qvla",), {Precision.NF4}),
        (("base",), {Precision.FP32}),
        (("adapter",), {Precision.FP32}),
        (("adapter", "qvla"), {Precision.FP32, Precision.NF4}),
    ],
)
def test_only_the_backbones_of_the_asked_variants_are_loaded(
    weights: Weights,
    expected: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    images: list[Image.Image],
    asked: tuple[str, ...],
    loaded: set[Precision],
) -> None:
    load, precisions = qvla.captioning.shared_backbone.load_backbone, []

    def watched(name: str, precision: Precision, **options: str) -> Backbone:
        precisions.append(precision)
        return load(name, precision, **options)

    monkeypatch.setattr(qvla.captioning.shared_backbone, "load_backbone", watched)
    lineup = Lineup.load(
        weights.model,
        adapter=weights.adapter,
        nf4_adapter=weights.nf4_adapter,
        precision="fp32",
        device="cpu",
        variants=asked,
    )
    assert set(precisions) == loaded and len(precisions) == len(loaded)
    for variant in lineup.variants():
        assert variant.available == (variant.name in asked)
        assert ("asked for" in variant.reason) == (variant.name not in asked)
    assert texts(lineup, images) == {name: expected[name] for name in asked}
    if "qvla" not in asked:
        with pytest.raises(QvlaError, match="QVLA is not available: It was not among"):
            caption(lineup, images[:1], ("qvla",), DECODING)


def test_a_variant_that_was_not_asked_for_can_be_swapped_in(
    weights: Weights, expected: dict[str, list[str]], images: list[Image.Image]
) -> None:
    lineup = Lineup.load(
        weights.model,
        nf4_adapter=weights.nf4_adapter,
        precision="fp32",
        device="cpu",
        variants=("qvla",),
    )
    lineup.swap_adapter("adapter", weights.adapter)
    assert texts(lineup, images) == {name: expected[name] for name in ("adapter", "qvla")}


def test_qvla_alone_needs_no_float_backbone(tmp_path: Path) -> None:
    lineup = Lineup.load(
        tmp_path / "nothing", nf4_adapter=tmp_path, device="cpu", variants=("qvla",)
    )
    assert "nothing" in lineup.variant("qvla").reason
    with pytest.raises(QvlaError, match="everything"):
        Lineup.load(tmp_path / "nothing", device="cpu", variants=("everything",))


def test_no_base_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(BackboneError) as error:
        Lineup.load(tmp_path / "nothing", device="cpu")
    assert "nothing" in str(error.value)


def test_variants_tell_who_they_are(lineup: Lineup, weights: Weights) -> None:
    base, adapter, qvla = lineup.variants()
    assert (base.title, adapter.title, qvla.title) == ("Base", "Adapter", "QVLA")
    assert (base.adapter, adapter.adapter, qvla.adapter) == (None, "first", "third")
    assert (base.precision, adapter.precision, qvla.precision) == ("fp32", "fp32", "nf4")
    assert {variant.device for variant in lineup.variants()} == {"cpu"}
    assert {variant.model for variant in lineup.variants()} == {weights.model.name}
    assert not any(variant.reason for variant in lineup.variants())


def test_weight_bytes_count_what_answers(lineup: Lineup, weights: Weights) -> None:
    base, adapter, qvla = (lineup.variant(name).weight_bytes for name in VARIANTS)
    assert base == _stored_bytes(weights.model / "model.safetensors")
    assert adapter == base + _stored_bytes(weights.adapter / "adapter_model.safetensors")
    assert 0 < qvla < base
    lineup.swap_adapter("adapter", weights.other_adapter)
    swapped = _stored_bytes(weights.other_adapter / "adapter_model.safetensors")
    assert lineup.variant("adapter").weight_bytes == base + swapped
    assert lineup.variant("base").weight_bytes == base


def _stored_bytes(file: Path) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in load_file(file).values())


def test_bf16_is_the_floating_backbones_precision_only(
    weights: Weights, images: list[Image.Image]
) -> None:
    lineup = Lineup.load(weights.model, adapter=weights.adapter, precision="bf16", device="cpu")
    assert lineup.variant("base").precision == "bf16"
    fp32 = _stored_bytes(weights.model / "model.safetensors")
    assert lineup.variant("base").weight_bytes == pytest.approx(fp32 / 2, rel=0.01)
    for answers in texts(lineup, images).values():
        assert all(answers)
    with pytest.raises(QvlaError, match="fp32, bf16, fp16 or int8"):
        Lineup.load(weights.model, precision="nf4", device="cpu")


def test_progress_is_told_in_sentences(weights: Weights) -> None:
    told: list[str] = []
    Lineup.load(
        weights.model,
        adapter=weights.adapter,
        nf4_adapter=weights.nf4_adapter,
        device="cpu",
        progress=told.append,
    )
    assert any("nf4" in sentence for sentence in told)
    assert any("first" in sentence for sentence in told)
    assert all(sentence.endswith(".") for sentence in told)


@pytest.mark.parametrize("call", ["variant", "shared", "swap"])
def test_unknown_names_are_refused(lineup: Lineup, weights: Weights, call: str) -> None:
    with pytest.raises(QvlaError, match="Adapter"):
        if call == "swap":
            lineup.swap_adapter("Adapter", weights.adapter)
        else:
            getattr(lineup, call)("Adapter")


def test_base_has_no_adapter_to_swap(lineup: Lineup, weights: Weights) -> None:
    with pytest.raises(QvlaError, match="base"):
        lineup.swap_adapter("base", weights.adapter)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_each_variant_answers_and_base_ignores_the_adapters(
    weights: Weights, images: list[Image.Image]
) -> None:
    lineup = Lineup.load(weights.model, adapter=weights.adapter, nf4_adapter=weights.nf4_adapter)
    assert lineup.variant("base").precision == "bf16"
    before = texts(lineup, images)
    lineup.swap_adapter("adapter", weights.other_adapter)
    after = texts(lineup, images)
    assert after["base"] == before["base"] and after["qvla"] == before["qvla"]
    assert after["adapter"] != before["adapter"]
