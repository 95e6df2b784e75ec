"""The decoding options as sliders, and what a visitor typed as arguments for the core."""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr

MOST_REFERENCES, LONGEST_REFERENCE = 50, 1000
LONGEST = 128  # tokens; the data set's captions end well before
SEED_DIGITS = 30  # more than any seed has


class DecodingControls(NamedTuple):
    """In the order of `qvla.captioning.engine.Decoding`."""

    max_new_tokens: gr.Slider
    num_beams: gr.Slider
    temperature: gr.Slider
    top_p: gr.Slider
    seed: gr.Textbox


def decoding_controls(elem_id: str = "decoding") -> DecodingControls:
    """Lays the options out in an accordion, with the defaults of `Decoding`."""
    with gr.Accordion("Decoding options", open=False, elem_id=elem_id, elem_classes="decoding"):
        with gr.Row():
            max_new_tokens = gr.Slider(
                1, LONGEST, value=40, step=1, label="Maximum length", info="tokens", min_width=200
            )
            num_beams = gr.Slider(
                1, 8, value=1, step=1, label="Beams", info="1 is greedy search", min_width=200
            )
        with gr.Row():
            temperature = gr.Slider(
                0.0,
                2.0,
                value=0.0,
                step=0.05,
                label="Temperature",
                info="0 always takes the likeliest word",
                min_width=200,
            )
            top_p = gr.Slider(
                0.05,
                1.0,
                value=1.0,
                step=0.05,
                label="Top-p",
                info="share of the probability to sample from",
                min_width=200,
            )
            seed = gr.Textbox(
                "",  # gr.Number shows 0 where there is no number
                max_lines=1,
                label="Seed",
                info="a whole number; empty: a new sample each time",
                min_width=200,
            )
    return DecodingControls(max_new_tokens, num_beams, temperature, top_p, seed)


def decoding_arguments(
    max_new_tokens: float, num_beams: float, temperature: float, top_p: float, seed: str
) -> dict[str, Any]:
    """Arguments of `Decoding`, which checks them. The browser sends 40 as 40 or as 40.0."""
    return {
        "max_new_tokens": _whole(max_new_tokens),
        "num_beams": _whole(num_beams),
        "temperature": temperature,
        "top_p": top_p,
        "seed": _seed(seed.strip()),
    }


def _seed(text: str) -> int | str | None:
    """As a number where it is one; `Decoding` refuses the rest, and numbers that are too large."""
    return int(text) if text.isdecimal() and len(text) <= SEED_DIGITS else text or None


def read_references(text: str | None) -> tuple[str, ...]:
    """One reference a line; empty lines do not count.

    Raises Gradio's error for more than anybody has: scoring takes the longer the more there are.
    """
    stripped = (line.strip() for line in (text or "").splitlines())
    lines = tuple(line for line in stripped if line)
    if len(lines) > MOST_REFERENCES or any(len(line) > LONGEST_REFERENCE for line in lines):
        raise gr.Error(
            f"There may be {MOST_REFERENCES} references of {LONGEST_REFERENCE} letters each, one a "
            "line: leave some out.",
            print_exception=False,
        )
    return lines


def _whole(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value
