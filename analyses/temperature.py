"""Would a head do better with sharper or flatter attention? Selective self-attention's temperature (2411.12892).

Selective self-attention multiplies a row's scores by a learned tau. Its released code learns one number b a layer, and
tau depends on the row's position i alone: 1 + exp(-exp(b)) ln(i + 1). It counts rows within the forward call, so that
in cached generation every row is row 0 and the temperature vanishes. Here positions are absolute.

Two probes need no training: the loss with a temperature on (`edit_losses` with
`headlens.hooks.row_edits.Temperature(heads, position_temperature(b))`), and its slope at tau = 1 in every head at once.
"""

from collections.abc import Callable
from functools import partial
from math import exp

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from headlens.analyses.edit_losses import token_losses
from headlens.analyses.fitness import check_windows
from headlens.analyses.headmap import HeadMap
from headlens.analyses.provenance import text_origin
from headlens.hooks.attention_taps import Watch
from headlens.hooks.model import Model
from headlens.hooks.row_blocks import Block
from headlens.hooks.sites import Site
from headlens.hooks.tapped import tapped
from headlens.hooks.taps import Tap, Where


def position_temperature(b: float = 2.0) -> Callable[[Tensor], Tensor]:
    """Selective self-attention's tau by position, to be given to Temperature; b = 2 is the authors' start."""
    return partial(_of_positions, exp(-exp(b)))


def _of_positions(strength: float, positions: Tensor) -> Tensor:
    return 1 + strength * (positions + 1).float().log()


def temperature_slopes(model: Model, windows: Int[Tensor, "window pos"], *, progress: bool = True) -> HeadMap:
    """How the loss on text moves with the temperature of each head, from one gradient.

    Returns:
        A HeadMap of dims (layer, head): d loss / d tau at tau = 1, nats per token, the mean over windows, which are its
        samples. Positive: the text becomes less likely as the head's attention is sharpened. The slope of z by tau is
        sum_j A_j (s_j - sum_k A_k s_k) v_j, of scores s, attention A and values v.

    Raises:
        ValueError: for a model that does not predict the next token, and windows of a single token or of more tokens
            than the model has positions for.
    """
    check_windows(model, windows)
    samples = np.stack(
        [
            _slopes(model, window[None].to(model.device))
            for window in tqdm(windows, unit=" windows", desc="temperature slopes", disable=not progress)
        ]
    )
    return HeadMap.from_samples(
        samples,
        dims=("layer", "head"),
        name="temperature slope",
        units="next-token loss, nats per token and unit of tau",
        sign="Positive means that sharper attention makes the text less likely.",
        provenance={**text_origin(model, windows), "analysis": "temperature_slopes"},
    )


def _slopes(model: Model, window: Int[Tensor, "1 pos"]) -> Float[np.ndarray, "layer head"]:
    said: dict[int, Tensor] = {}
    turning = {at: torch.zeros(0) for at in range(model.n_layers)}

    def keep(z: Tensor, where: Where) -> Tensor:
        said[where.layer()] = z
        return z

    def turn(block: Block, pattern: Tensor) -> None:
        with torch.no_grad():
            scores = block.scores.masked_fill(~block.visible, 0)
            tilted = pattern * (scores - (pattern * scores).sum(-1, keepdim=True))
            whole = turning[block.layer]
            turning[block.layer] = torch.cat([whole.to(tilted), block.z(tilted)[0].float()])

    layers = range(model.n_layers)
    taps = [Tap(Site("z", at), keep, "The temperature's slope", observes=True) for at in layers]
    watchers = [Watch(Site("pattern", at), turn, "The temperature's slope") for at in layers]
    embedded = model.hf.get_input_embeddings()(window).detach().requires_grad_()
    with torch.enable_grad(), tapped(model.hf, model.towers, [*taps, *watchers]):
        logits = model.hf(inputs_embeds=embedded, use_cache=False).logits
        gradients = torch.autograd.grad(token_losses(logits, window).mean(), [said[at] for at in layers])
    slopes = [(gradient[0].float() * turning[at]).sum((0, 2)) for at, gradient in enumerate(gradients)]
    return torch.stack(slopes).cpu().numpy()
