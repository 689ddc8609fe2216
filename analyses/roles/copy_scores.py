"""Copy scores: what would a head say if it attended to the answer's word alone? (2211.00593, section 3)"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from headlens.analyses.equal_lengths import of_equal_length, tokens_together
from headlens.analyses.headmap import HeadMap
from headlens.analyses.provenance import origin
from headlens.analyses.roles.named_words import named_words
from headlens.analyses.task import Task
from headlens.analyses.tokens import vocabulary_of
from headlens.hooks.head_output import head_output
from headlens.hooks.model import Model
from headlens.hooks.read_weights import HeadWeights, read_weights
from headlens.hooks.readout import Readout, find_readout
from headlens.hooks.sites import Site

# Tokens that run together, and rows whose logits are held at once.
_TOKENS, _ROWS = 8192, 256


@torch.no_grad()
def copy_scores(model: Model, task: Task, top: int = 5, progress: bool = True) -> dict[str, HeadMap]:
    """Whether each head, from the answer's word in a clean prompt, makes the answer likely, or unlikely.

    The residual stream behind the first block, at each place where the prompt holds its answer (`named_words`), goes
    through the head's norm and OV, then through the final norm and the unembedding:

    - "copy": the share of places at which the answer is among the `top` likeliest tokens;
    - "negative_copy": the same with what the head writes turned round, as heads that suppress what they see do.

    Returns:
        Two HeadMaps over (layer, head) of shares, 0 to 1. `samples` are shares of a prompt's places, NaN for a prompt
        that does not hold its answer. A head that writes nothing scores 0, since ties count against the answer.

    The paper asks this at every name of a prompt, with the norm of the second block and the values' bias; here it is
    the answer's word alone, each head has its own norm, and biases of values and of the output projection are left out,
    since they are written whatever the head sees.

    Raises:
        ValueError: for a `top` below 1 or of all tokens, and as `direct_logits` and `weights.copying` for models whose
            heads have no weights or whose logits are not read from the residual stream.
    """
    size = vocabulary_of(model)
    if not 1 <= top < size:
        raise ValueError(f"top={top} was given; expected how many of the {size} tokens are on top, at least 1.")
    readout, weights = find_readout(model), read_weights(model)
    rows, prompts, answers = _at_answers(model, task)
    held = np.bincount(prompts, minlength=len(task))
    samples = np.full((2, len(task), model.n_layers, model.n_heads), np.nan, np.float32)
    bar = tqdm(weights, desc=f"copy scores {task.name}", unit=" layers", disable=not progress or not len(rows))
    for layer, own in enumerate(bar if len(rows) else ()):
        said = _written(model, layer, own, rows)
        hits = _hits(readout, said.flatten(0, 1), answers.repeat(model.n_heads), top).unflatten(1, said.shape[:2])
        for sign, heads in enumerate(hits.cpu().numpy()):
            for head, hit in enumerate(heads):
                found = np.bincount(prompts, hit, minlength=len(task))
                samples[sign, held > 0, layer, head] = found[held > 0] / held[held > 0]
    signs = {"copy": "likely", "negative_copy": "unlikely"}
    return {
        name: HeadMap.from_samples(
            own,
            dims=("layer", "head"),
            name=name.replace("_", " ") + " score",
            units=f"share of the answer's places (answer among {top})",
            sign=f"Larger means that the head, attending to the answer's word, makes it more {how}.",
            clusters=task.templates,
            provenance={**origin(model, task), "run": "clean", "top": top, "paper": "2211.00593"},
        )
        for (name, how), own in zip(signs.items(), samples, strict=True)
    }


def _at_answers(
    model: Model, task: Task
) -> tuple[Float[Tensor, "row d_model"], Int[np.ndarray, " row"], Int[Tensor, " row"]]:
    """The residual stream behind the first block where prompts hold their answers, at unit size, and whose it is."""
    places, site = named_words(model, task).answer, str(Site("resid_post", 0))
    rows, owners = [torch.zeros(0, model.d_model)], [np.zeros(0, np.int64)]
    for prompts, length in of_equal_length(task.positions["END"] + 1, tokens_together(_TOKENS)):
        here = places[prompts, :length]
        if here.any():
            _, kept = model.record(task.clean_tokens[prompts, :length], names_filter=[site], budget=None)
            rows.append(kept[site][torch.from_numpy(here)].float().cpu())
            owners.append(np.array(prompts)[here.nonzero()[0]])
    resid, owner = torch.cat(rows), np.concatenate(owners)
    # a norm takes off the size anyway
    resid = resid / resid.square().mean(-1, keepdim=True).sqrt()
    return resid.to(model.device), owner, task.answers[torch.from_numpy(owner)].to(model.device)


def _written(
    model: Model, layer: int, own: HeadWeights, rows: Float[Tensor, "row d_model"]
) -> Float[Tensor, "head row d_model"]:
    """What each head of a layer adds to the residual stream if it attends to one row alone."""
    here = rows.to(own.v.device)
    said = torch.stack([here @ own.of_head("v", head) @ own.of_head("o", head) for head in range(model.n_heads)])
    post_norm = head_output(model, model.layers[layer]).post_norm
    return (said if post_norm is None else post_norm.module(said)).to(rows.device)


def _hits(
    readout: Readout, said: Float[Tensor, "row d_model"], answers: Int[Tensor, " row"], top: int
) -> Float[Tensor, "2 row"]:
    """Which rows' answers come out on top, and which do if what is said is turned round."""
    # what the biases say: norms are odd but for these
    silent = _unembedded(readout, torch.zeros_like(said[:1]))
    found = []
    for part, wanted in zip(said.split(_ROWS), answers.split(_ROWS), strict=True):
        logits = _unembedded(readout, part)
        found.append(torch.stack([_on_top(each, wanted, top) for each in (logits, 2 * silent - logits)]))
    return torch.cat(found, 1)


def _unembedded(readout: Readout, resid: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocabulary"]:
    """Logits before the scale and the cap, which change no ranks."""
    normed = readout.final_norm(resid.to(readout.unembedding.weight.dtype))
    return readout.unembedding(normed).float().to(resid.device)


def _on_top(logits: Float[Tensor, "row vocabulary"], wanted: Int[Tensor, " row"], top: int) -> Float[Tensor, " row"]:
    own = logits.gather(1, wanted[:, None])
    # itself counted
    return ((logits >= own).sum(1) <= top).float()
