"""What `find_sinks` found, in sentences."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from headlens.analyses.sinks_found import Sinks


def in_words(sinks: "Sinks") -> str:
    """How many there are, on which tokens, of which heads, and whether massive activations make them so."""
    about = [_on_which_tokens, _of_which_heads, _how_large] if sinks.flagged.any() else []
    return " ".join([_how_many(sinks), *(say(sinks) for say in about), sinks.massive.described()])


def _how_many(sinks: "Sinks") -> str:
    rule, (_, layers, heads, _) = sinks.rule, sinks.share.shape
    found, could = int(sinks.flagged.sum()), int(sinks.candidates.sum()) * layers * heads
    bound = f"{rule.alpha:g} times the average" if rule.threshold is None else f"{rule.threshold:g}"
    without = "" if rule.first else ", first tokens left out"
    return (
        f"{found} of {could} (layer, head, token) triples are sinks ({found / max(1, could):.2%}; {rule.mode} "
        f"attention above {bound}{without})."
    )


def _on_which_tokens(sinks: "Sinks") -> str:
    usual, which = sinks.by_kind().set_index("kind").loc["usual"], "first occurrences of a token that comes again"
    if sinks.prompts.kinds:
        which = f"punctuation, newlines or {which}"
    return f"{usual['of_sinks']:.0%} of them are {which}, as {usual['of_tokens']:.0%} of the tokens are."


def _of_which_heads(sinks: "Sinks") -> str:
    most, mass = sinks.counts().top(3), sinks.mass().values
    heads = zip(most["label"], most["value"], mass[most["layer"], most["head"]], strict=True)
    named = [f"{label} ({count:.1f}, {share:.0%})" for label, count, share in heads]
    return f"Most sinks a prompt, and the attention they take: {', '.join(named)}."


def _how_large(sinks: "Sinks") -> str:
    """The largest activations of sinks, in front of the layers whose sinks they are, beside those of other tokens."""
    peak, (prompt, layer, _, pos) = sinks.massive.peak, np.nonzero(sinks.flagged)
    own, first = (prompt, layer, pos), peak[range(len(peak)), :, sinks.prompts.firsts]
    return (
        f"{sinks.massive.at[own].mean():.1%} of the sinks have a massive activation before their layer; a sink's "
        f"largest is {np.median(peak[own]):.0f} times the layer's median magnitude, any token's "
        f"{np.nanmedian(peak):.0f} times, a first token's {np.nanmedian(first):.0f} times (each the median)."
    )
