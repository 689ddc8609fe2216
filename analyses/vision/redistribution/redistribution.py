"""Visual attention redistribution, VAR (2503.03321): attention that sinks hold goes to image patches that are none.

For the rows that the rule of `image_centric.py` chooses, with p the share that is moved:

    A'_ij = (1 - p) A_ij                                         j a sink, whether text or patch
    A'_ij = A_ij + p S_i A_ij / (sum of A_ik over k in V)         j in V, the patches that are no sinks
    A'_ij = A_ij                                                 j other text

with S_i the row's attention to all sinks. Rows keep their sums, and keys that a row may not see get nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from headlens.analyses.vision.redistribution.image_centric import ImageCentric
from headlens.analyses.vision.redistribution.sink_dimensions import sink_dimensions, sink_threshold
from headlens.analyses.vision.redistribution.visual_sinks import image_tokens
from headlens.analyses.vision.samples import Samples
from headlens.hooks.edits import Heads
from headlens.hooks.groups import Chosen, Massive
from headlens.hooks.model import Model
from headlens.hooks.nearest import did_you_mean
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.sites import parse_heads


@dataclass(frozen=True)
class Convention:
    """How the paper, or its released code, states the same edit.

    `p_moves`: p is the share that sinks give, and not what they keep. `rho_keeps`: rho bounds the share of V on patches
    that are no sinks from below, and not the sinks' share from above. `last_layer`: whether that layer is edited.
    `bias` is added to V for each patch in the selection.
    """

    name: str
    p_moves: bool
    rho_keeps: bool
    last_layer: bool
    bias: float

    def move(self, p: float = 0.6) -> float:
        """`move=` of `redistribute` for a published p (0.6 throughout)."""
        return p if self.p_moves else 1 - p

    def non_sink(self, rho: float = 0.5) -> float:
        """`non_sink=` of `redistribute` for a rho: the paper has 0.8 for general tasks, 0.5 for hallucination and 0.9
        for vision-centric ones; for 0.8 the code must be given 0.2."""
        return rho if self.rho_keeps else 1 - rho


PAPER = Convention("paper", p_moves=True, rho_keeps=True, last_layer=False, bias=0.0)
RELEASED = Convention("released", p_moves=False, rho_keeps=False, last_layer=True, bias=1e-6)
CONVENTIONS = {convention.name: convention for convention in (PAPER, RELEASED)}


def redistribute(
    model: Model,
    samples: Samples | None = None,
    move: float | None = None,
    *,
    non_sink: float = 0.5,
    floor: float = 0.2,
    dims: Sequence[int] | None = None,
    above: float | None = None,
    layers: Sequence[int] | None = None,
    heads: Heads | None = None,
    convention: str = "paper",
) -> Recalibrate:
    """The edit that moves a share of the sinks' attention to image patches that are no sinks (VAR, 2503.03321).

    It is a transfer: donors are tokens with a massive activation in a sink dimension, text and patches alike; receivers
    are image patches without one, at text rows behind an image where the head is image-centric; donors keep 1 - `move`.
    Every other row stays bit for bit as it was, also one whose visual attention is all on sinks; a report of the run
    counts it as idle where sinks had something to give, since nothing there may receive. `image_centric_heads` says how
    often which head is chosen. Sinks and rows are found anew in each run, layer and sample, from that run: nothing
    is kept from one run to the next. Samples may run together, and each may have several pictures. Like all edits that
    remember earlier tokens, it must be there when a run starts, and refuses beam search.

    `samples` serve to find the sink dimensions alone; nothing is trained, and no answers are looked at. What the edit
    does to answers is to be measured: independent replications report changes near 0, and more attention to patches is
    no evidence of better answers.

    Conventions, by name:

    - "paper": p = 0.6 is what moves; layers 0, 1 and the last are left out.
    - "released": in the authors' code sinks keep p, so that its p = 0.6 moves 0.4; rho bounds the sinks' share; 1e-6 a
      patch is added to V in the selection (5.8e-4 with 576); and the last layer is edited, because the switch that
      should leave it out is shadowed by a subclass.

    Not reproduced, in either, are these faults of the released code: its state is never reset, so that the second
    sample is edited at the first one's sinks, and at image rows too; the sink dimensions of the 7B model serve all
    sizes; the batch index of sinks is dropped; image tokens are taken to be one run of positions. The threshold is
    fixed at 20 there and scales with width here; generated tokens are never sinks there, and are tested like all others
    here, so that a cached run does what a whole one does.

    Args:
        samples: to find the sink dimensions in; may be left out where `dims` are given.
        move: the share of their attention that sinks give, 0 to 1, in both conventions; without it the convention's own
            for p = 0.6, which is 0.6 or 0.4. 0 changes nothing. `PAPER.move(p)`, `RELEASED.move(p)` translate.
        non_sink: the least share of a row's visual attention on patches that are no sinks, 0 to 1, in both conventions.
            `PAPER.non_sink(rho)` and `RELEASED.non_sink(rho)` translate.
        floor: the least share of a row's attention on patches, 0 to 1.
        dims: sink dimensions; without them those that `sink_dimensions` finds.
        above: from how many root mean squares on a token is massive; without it `sink_threshold(model.d_model)`.
        layers: which to edit; without them those of the convention.
        heads: which the rule may choose from, in place of all heads of `layers`.

    Raises:
        ValueError: for an unknown convention, a share outside of 0 to 1, both layers and heads, a model without image
            tokens, without a layer left to edit, or in which no sink dimension is found.
    """
    if convention not in CONVENTIONS:
        hint = did_you_mean(convention, CONVENTIONS)
        raise ValueError(f"Unknown convention {convention!r}{hint}; the conventions are {', '.join(CONVENTIONS)}.")
    named = CONVENTIONS[convention]
    share = named.move() if move is None else move
    if not 0 <= share <= 1:
        raise ValueError(f"move={move} was given; expected the share of their attention that sinks give, 0 to 1.")
    edited = _heads(model, named, layers, heads)
    image = image_tokens(model)
    if dims is not None:
        sinks = Massive(tuple(dims), sink_threshold(model.d_model) if above is None else above)
    elif samples is not None:
        sinks = sink_dimensions(model, samples, above=above, layers=sorted({layer for layer, _ in edited})).group()
    else:
        raise ValueError("Neither samples to find the sink dimensions in nor dims= were given; give one of them.")
    rule = ImageCentric(image, sinks, non_sink, floor, named.bias)
    return Recalibrate(edited, policy="transfer", donors=sinks, receivers=Chosen(rule), beta=1 - share)


def _heads(
    model: Model, convention: Convention, layers: Sequence[int] | None, heads: Heads | None
) -> list[tuple[int, int]]:
    if heads is not None:
        if layers is not None:
            raise ValueError("Both layers= and heads= were given; heads have their layers, so give one of them.")
        return [(head.layer, head.head) for head in parse_heads(heads, model.n_layers, model.n_heads)]
    end = model.n_layers if convention.last_layer else model.n_layers - 1
    chosen = range(2, end) if layers is None else layers
    if not chosen:
        raise ValueError(
            f"VAR leaves out layers 0 and 1{'' if convention.last_layer else ' and the last'}, and of the "
            f"{model.n_layers} layers of this model none is left; give layers=."
        )
    if not all(0 <= layer < model.n_layers for layer in chosen):
        raise ValueError(f"layers={[*chosen]} were given; expected some of 0..{model.n_layers - 1}.")
    return [(layer, head) for layer in chosen for head in range(model.n_heads)]
