"""Bytes of activations, told from the architecture: what autograd keeps, and what comes and goes.

The bookkeeping is that of Korthikanti et al., "Reducing Activation Recomputation in Large
Transformer Models" (arXiv 2205.05198, section 4.1), for Gemma and SigLIP instead of GPT, and with
a frozen base. That changes which tensors are kept: the input of a matrix product is needed for the
gradient of its weight alone, so a frozen projection keeps nothing, and what remains are the inputs
of the products between activations, of the non-linearities, and of what is trained. Before the
first trained weight nothing is kept at all.

Everything here is in bytes, for one step on one device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qvla.methods.method import Trained

FLOAT = 4  # bytes of a float32, which norms and the loss are taken in
PEAK_OF_LOSS = 8  # bytes a logit: its gradient before and after the softmax, both in float32


@dataclass(frozen=True)
class Step:
    """One step's shapes and types.

    `text_tokens` follow the image tokens of a row, padding included; `labels` are the labelled
    tokens of the whole batch. `compute` are the bytes of the type that matrix products are taken
    in, `residual` those of the type that is handed from layer to layer and that unquantised weights
    have: the two differ when autocast computes a float32 model in bfloat16. `attention` is eager or
    sdpa, of the decoder; the vision tower always has sdpa.
    """

    rows: int
    image_tokens: int
    text_tokens: int
    labels: int
    compute: int = 2
    residual: int = 2
    attention: str = "sdpa"

    @property
    def length(self) -> int:
        return self.image_tokens + self.text_tokens

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def casts_base(self) -> bool:
        """Whether the base's weights are cast for every product, as float32 under autocast is."""
        return self.compute < self.residual


class Decoder:
    """What the language decoder keeps and uses in one step."""

    def __init__(self, config: Any, step: Step, trained: Trained) -> None:
        text = config.text_config
        self.step = step
        self.trained = trained
        self.full = trained.form == "full"
        # Whether gradients flow through the first layer's input already.
        seen = trained.form == "sight" or trained.vision is not None
        self.from_input = trained.form in ("full", "input") or seen
        self.from_photos = self.full or seen
        self.hidden = text.hidden_size
        self.width = text.intermediate_size
        self.layers = text.num_hidden_layers
        self.heads = text.num_attention_heads
        self.key_heads = text.num_key_value_heads
        self.head = text.head_dim
        self.vocabulary = text.vocab_size
        # Gemma 2, of PaliGemma 2: norms after the sublayers too, and capped scores and logits.
        self.second_norms = text.model_type == "gemma2"
        self.capped_scores = getattr(text, "attn_logit_softcapping", None) is not None
        self.capped_logits = getattr(text, "final_logit_softcapping", None) is not None

    def saved(self, checkpointing: bool) -> int:
        """Kept from the forward pass until the backward pass has used it.

        With checkpointing only each layer's input is; `recomputed` tells the rest.
        """
        step = self.step
        kept = step.tokens  # which positions' logits are wanted: a byte each
        if checkpointing or self.from_photos:
            kept += step.tokens  # which positions are the photo's, of an input with gradients
        if self.from_photos and not self.full:
            kept += 8 * step.rows  # which photos the rows have
        if self.trained.form == "input" and step.compute < FLOAT:
            kept += 2 * step.compute * self.trained.width * self.hidden  # the second of two maps
        if self.full:
            kept += 8 * (step.tokens + step.rows)  # which embeddings and photos the rows have
        if checkpointing:
            kept += self.layers * step.tokens * self.hidden * step.residual
        else:
            live = self.from_input
            for index in range(self.layers):
                layer, live = self._layer(index, live)
                kept += layer
            kept += self._rotary()
        last = self._trains_norm(self.layers - 1, "mlp") and (self.full or not self.second_norms)
        return kept + self._norm(last) + self.loss()

    def recomputed(self) -> int:
        """Kept by one layer, the largest, while the backward pass goes through it again."""
        # recomputing asks each layer's input to have gradients, the first one's too
        return max(self._layer(index, True)[0] for index in range(self.layers)) + self._rotary()

    def loss(self) -> int:
        """Log-probabilities of the labelled positions in float32, and the labels."""
        step = self.step
        logits = step.labels * self.vocabulary
        kept = FLOAT * logits + 8 * step.labels + FLOAT
        kept += step.compute * logits if self.capped_logits else 0
        kept += step.compute * step.labels * self.hidden if self.full else 0
        return kept + self._cast(self.hidden, self.vocabulary)

    def transient_loss(self, unpacked: int) -> int:
        """On top of `saved` at the turn from forward to backward: the logits' gradients, or later
        what is `unpacked` at once of a head in 8 bits.
        """
        return max(PEAK_OF_LOSS * self.step.labels * self.vocabulary, unpacked)

    def transient_layer(self, unpacked: int) -> int:
        """On top of what is kept, at the worst point of one layer's backward pass.

        That is in the MLP: its product, where the gradients of the product and of its two factors
        are there at once, or the projection after it, where a quantised weight is `unpacked`. The
        gradient of the residual stream is held beside them. The loss has been dealt with by then.
        """
        step = self.step
        factor = step.compute * step.tokens * self.width
        return FLOAT * step.tokens * self.hidden + max(3 * factor, factor + unpacked)

    def multiplied(self) -> int:
        """On top of what is kept, while one `dense` projection is computed: with PEFT a unit matrix
        of its inputs that goes through the low-rank matrices, what comes of that, the base's weight
        and their sum.
        """
        queries, keys = self.heads * self.head, self.key_heads * self.head
        sizes = {
            "q_proj": (self.hidden, queries),
            **dict.fromkeys(("k_proj", "v_proj"), (self.hidden, keys)),
            "o_proj": (queries, self.hidden),
            **dict.fromkeys(("gate_proj", "up_proj"), (self.hidden, self.width)),
            "down_proj": (self.width, self.hidden),
        }
        wanted = [sizes[site] for site in self.trained.sites] if self.trained.layers else []
        return max((FLOAT * (one**2 + 3 * one * other) for one, other in wanted), default=0)

    def prefill(self) -> int:
        """The most that a forward pass without gradients holds at once, but for the cache."""
        step = self.step
        # the MLP's two factors and their product, beside the residual stream and the normed input
        layer = 3 * step.compute * self.width + (step.residual + step.compute) * self.hidden
        mask = step.rows * step.length**2 * (1 + step.compute)
        # of the last position alone: as computed, and in float32
        logits = step.rows * self.vocabulary * (step.compute + FLOAT)
        return max(step.tokens * layer + mask, logits)

    def cache(self, tokens: int) -> int:
        """Keys and values of so many tokens a row, and one layer's copy while it grows."""
        pairs = 2 * self.step.rows * tokens * self.key_heads * self.head * self.step.compute
        return pairs * (self.layers + 1)

    def _layer(self, index: int, live: bool) -> tuple[int, bool]:
        """Kept by one layer, and whether gradients flow through what comes out of it.

        `live` says whether they do through what goes in: only then do fixed operations keep
        anything.
        """
        trained = self.trained
        queries = self.heads * self.head
        keys = self.key_heads * self.head
        kept = self._first_norm(index, "attention", live)
        projections = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
        more, live = self._projections(index, projections, self.hidden, live)
        prefix = trained.width if trained.form == "prefix" and index in trained.layers else 0
        kept += more + (self._attention(prefix, live) if live or prefix else 0)
        live = live or prefix > 0
        # sdpa has kept its own output already, which is what the projection takes in
        shared = self.step.attention == "sdpa" and live
        more, live = self._projections(index, {"o_proj": self.hidden}, queries, live, shared)
        kept += more
        more, live = self._bottleneck(index, "attention", live)
        kept += more + self._second_norm(index, "attention", live)

        kept += self._first_norm(index, "mlp", live)
        projections = {"gate_proj": self.width, "up_proj": self.width}
        more, live = self._projections(index, projections, self.hidden, live)
        kept += more
        if live:  # the gate before its non-linearity, and the two factors of the product
            kept += 3 * self.step.compute * self.step.tokens * self.width
        more, live = self._projections(index, {"down_proj": self.hidden}, self.width, live)
        kept += more
        more, live = self._bottleneck(index, "mlp", live)
        return kept + more + self._second_norm(index, "mlp", live), live

    def _first_norm(self, index: int, sublayer: str, live: bool) -> int:
        """The norm before a sublayer; in Gemma it is what comes after the sublayer before."""
        before = (index - 1, "mlp") if sublayer == "attention" else (index, "attention")
        trained = self.full or (not self.second_norms and self._trains_norm(*before))
        return self._norm(trained) if live else 0

    def _second_norm(self, index: int, sublayer: str, live: bool) -> int:
        """The norm after a sublayer, which only Gemma 2 has."""
        return self._norm(self._trains_norm(index, sublayer)) if self.second_norms and live else 0

    def _norm(self, trained: bool) -> int:
        """RMSNorm, in float32: its input, a number a token, and one plus its weight; where the
        weight is trained, also the normed input.
        """
        tokens = self.step.tokens
        return FLOAT * (tokens * self.hidden * (1 + trained) + tokens + self.hidden)

    def _attention(self, prefix: int, live: bool) -> int:
        """Kept by attention to keys and values of which each row has `prefix` more; `live` says
        whether the queries have gradients.
        """
        step = self.step
        queries = step.compute * step.tokens * self.heads * self.head
        longer = step.length + prefix
        scores = step.rows * self.heads * step.length * longer
        if step.attention == "eager":
            # queries, and keys and values copied for every head; the probabilities in float32, and
            # again in the compute type where that is another; keys are for the queries' gradient
            wide = FLOAT + (step.compute if step.compute < FLOAT else 0)
            copies = (1 + live) * step.compute * step.rows * longer * self.heads * self.head
            kept = queries + copies + scores * wide
            return kept + (step.compute * scores if self.capped_scores else 0)
        # queries and output; keys and values, which a single key head lends to all without a copy,
        # unless float32 keys have to be cast; the logarithmic sums of the scores, and the mask in
        # the compute type
        head = step.compute * step.rows * longer * self.head
        values = head if self.key_heads == 1 else head * self.heads
        keys = head * self.heads if step.casts_base else values
        sums = FLOAT * step.tokens * self.heads
        mask = step.compute * step.rows * step.length * longer
        return 2 * queries + keys + values + sums + mask

    def _projections(
        self, index: int, outputs: dict[str, int], inputs: int, live: bool, shared: bool = False
    ) -> tuple[int, bool]:
        """Projections of one input. `shared` says that something else keeps that input already."""
        step, trained = self.step, self.trained
        around = [name for name in outputs if trained.form == "parallel" and name in trained.sites]
        around = around if index in trained.layers else []
        takers = len(outputs) if self.full else len(around)
        # One input for all that take it; but float32 activations or weights that are computed in
        # bfloat16 are cast for each, which keeps a copy each.
        cast = step.compute < FLOAT and (bool(around) or step.casts_base)
        copies = takers if cast else min(takers, 1)
        if shared and not (cast and around):
            copies = 0
        if self.full and inputs != self.hidden:
            copies = 0 if shared else 1  # attention and the product come in the compute type
        kept = copies * step.compute * step.tokens * inputs
        for name, width in outputs.items():
            kept += self._cast(inputs, width) if live or self.full else 0
            if name in around:
                kept += step.compute * step.tokens * trained.width  # between its two matrices
                kept += step.compute * step.tokens * trained.outputs * width
                kept += FLOAT * inputs * (trained.per_input + trained.squares * inputs)
                if step.compute < FLOAT or trained.joined:
                    kept += step.compute * trained.width * (width + (inputs if live else 0))
        return kept, live or bool(around)

    def _bottleneck(self, index: int, site: str, live: bool) -> tuple[int, bool]:
        """An adapter's input, and its bottleneck before and after the non-linearity; its weights in
        the compute type, of which the first is needed for gradients of the input alone.
        """
        step, trained = self.step, self.trained
        if trained.form != "sequential" or not self._has_bottleneck(index, site):
            return 0, live
        kept = step.compute * step.tokens * (self.hidden + 2 * trained.width)
        if step.compute < FLOAT:
            kept += step.compute * self.hidden * trained.width * (1 + live)
        return kept, True

    def _has_bottleneck(self, index: int, site: str) -> bool:
        return index in self.trained.layers and site in self.trained.sites

    def _trains_norm(self, index: int, site: str) -> bool:
        """Whether the norm after this sublayer is trained; see `qvla.methods.bottleneck`."""
        if self.full:
            return True
        wanted = self.trained.form == "sequential" and self.trained.norms
        return wanted and self._has_bottleneck(index, site)

    def _rotary(self) -> int:
        """Cosine and sine of every position, the same for all rows and layers."""
        return 2 * self.step.residual * self.step.length * self.head

    def _cast(self, inputs: int, outputs: int) -> int:
        """A base's weight in the compute type, which the gradient of its product's input needs."""
        return self.step.compute * inputs * outputs if self.step.casts_base else 0
