"""What heads could do, from their weights alone: spectra, copying, and who is built to read whom.

A head's weights come in two products (A Mathematical Framework for Transformer Circuits, Elhage et al. 2021): QK =
W_Q W_K', which decides where it attends, and OV = W_V W_O, which decides what it moves. Norm weights are folded in. No
prompt is run, so nothing here says that a head does what it could.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headlens.analyses.headmap import HeadMap
from headlens.analyses.provenance import weights_origin
from headlens.hooks.model import Model
from headlens.hooks.read_weights import HeadWeights, read_weights
from headlens.hooks.readout import find_readout
from headlens.hooks.sites import Head, parse_heads
from headlens.hooks.spread import values_of

CIRCUITS = ("QK", "OV")
# What a head of zeros is divided by.
_TINY = torch.finfo(torch.float32).tiny


def spectrum(model: Model, circuit: str = "OV") -> HeadMap:
    """The singular values of each head's QK or OV, largest first.

    Returns:
        A HeadMap with dims (layer, head, metric), metric "singular value 1" and so on, as many as d_head. How many are
        large is how many directions the head tells apart (QK) or moves (OV).

    Raises:
        ValueError: for another circuit, and for QK where queries or keys are normed themselves (Qwen 3, Gemma 3), since
            then the product is no matrix.
    """
    if circuit not in CIRCUITS:
        raise ValueError(f"circuit={circuit!r} was given; expected one of {', '.join(CIRCUITS)}.")
    rows = []
    for weights in read_weights(model):
        pairs = (_sides(weights, circuit, head) for head in range(model.n_heads))
        rows.append(torch.stack([_singular_values(left, right) for left, right in pairs]))
    values = torch.stack(rows).cpu().numpy()
    return HeadMap(
        values,
        dims=("layer", "head", "metric"),
        coords={"metric": [f"singular value {at + 1}" for at in range(values.shape[-1])]},
        name=f"{circuit} spectrum",
        units="singular values of a d_model by d_model matrix",
        sign="Never negative; 0 is a direction that the head ignores.",
        provenance=weights_origin(model),
    )


def copying(model: Model) -> HeadMap:
    """How far each head, attending to a token, makes that same token more likely: from its weights.

    The eigenvalues of W_E OV W_U [token, token], as sum over sum of magnitudes, their real parts counted (Elhage et al.
    2021). 1 copies every combination of tokens, -1 makes all of them less likely, 0 neither. The final norm's weight is
    folded in; what MLPs make of tokens before the head reads them is not.

    Raises:
        ValueError: as `headlens.direct_logits` for models whose logits are not read from the residual stream.
    """
    readout = find_readout(model)
    unembedding = values_of(readout.unembedding).detach().float() * readout.frozen_norm.weight
    embedding = values_of(model.hf.get_input_embeddings()).detach().float()
    # [d_model, d_model]; d_head by d_head matrices have the same eigenvalues but for zeros
    between = unembedding.T @ embedding
    rows = []
    for weights in read_weights(model):
        products = [weights.of_head("o", h) @ between @ weights.of_head("v", h) for h in range(model.n_heads)]
        eigenvalues = torch.linalg.eigvals(torch.stack(products).cpu())
        rows.append(eigenvalues.real.sum(-1) / eigenvalues.abs().sum(-1).clamp_min(_TINY))
    return HeadMap(
        torch.stack(rows).numpy(),
        dims=("layer", "head"),
        name="copying score",
        units="sum of eigenvalues of the token-to-logit matrix over their magnitudes",
        sign="Positive heads copy the tokens that they attend to, negative ones make them less likely.",
        provenance=weights_origin(model),
    )


def composition(model: Model, receiver: str | Head, component: str) -> HeadMap:
    """How far each earlier head writes where the receiver's query, key or value reads.

        q: |OV_sender W_Q W_K'|,   k: |OV_sender W_K W_Q'|,   v: |OV_sender W_V W_O|,

    each over the product of both matrices' Frobenius norms (Elhage et al. 2021). 0 is no overlap and 1 the most there
    can be; random matrices of these sizes have about 1 / sqrt(d_model).

    Args:
        receiver: the head that reads, such as "L5H3".
        component: its "q", "k" or "v".

    Returns:
        A HeadMap of senders; NaN from the receiver's layer on.

    Raises:
        ValueError: for another component, a head that the model does not have, and q or k that are normed themselves.
    """
    if component not in ("q", "k", "v"):
        raise ValueError(f"component={component!r} was given; expected q, k or v.")
    (head,) = parse_heads(receiver, model.n_layers, model.n_heads)
    weights = read_weights(model)
    own = weights[head.layer]
    if component == "v":
        reads, then = own.of_head("v", head.head), own.of_head("o", head.head)
    else:
        query, key = _sides(own, "QK", head.head)
        reads, then = (query, key) if component == "q" else (key.T, query.T)
    whole = _size(reads, then)
    values = np.full((model.n_layers, model.n_heads), np.nan, np.float32)
    for layer in range(head.layer):
        for at in range(model.n_heads):
            left, right = _sides(weights[layer], "OV", at)
            # d_head by d_head in the middle, so that no d_model by d_model matrix is made
            values[layer, at] = float(
                _size(left @ (right @ reads), then) / (_size(left, right) * whole).clamp_min(_TINY)
            )
    return HeadMap(
        values,
        dims=("layer", "head"),
        name=f"{component}-composition with {head}",
        units="share of the largest possible overlap",
        sign=f"Never negative; larger heads write more into what {head}'s {component} reads.",
        provenance={**weights_origin(model), "receiver": str(head), "component": component},
    )


def _sides(weights: HeadWeights, circuit: str, head: int) -> tuple[Tensor, Tensor]:
    """A head's product as its two thin factors, [d_model, d_head] and [d_head, d_model]."""
    if circuit == "OV":
        return weights.of_head("v", head), weights.of_head("o", head)
    if weights.q is None or weights.k is None:
        raise ValueError(
            "This model norms its queries or keys, so where its heads attend is no bilinear form with a spectrum; look "
            "at OV, or at v-composition."
        )
    return weights.of_head("q", head), weights.of_head("k", head).T


def _singular_values(
    left: Float[Tensor, "d_model d_head"], right: Float[Tensor, "d_head d_model"]
) -> Float[Tensor, " d_head"]:
    """Those of left @ right, without making it."""
    (_, one), (_, other) = torch.linalg.qr(left), torch.linalg.qr(right.T)
    return torch.linalg.svdvals(one @ other.T)


def _size(left: Tensor, right: Tensor) -> Tensor:
    """The Frobenius norm of left @ right."""
    return ((left.T @ left) * (right @ right.T)).sum().clamp_min(0).sqrt()
