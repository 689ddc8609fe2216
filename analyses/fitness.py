"""Which models a sweep can be run on."""

from headlens.analyses.task import Task
from headlens.analyses.tokens import vocabulary_of
from headlens.hooks.model import Model
from headlens.hooks.sites import MAIN


def refuse_unfit(model: Model, task: Task) -> None:
    """ValueError for a model that is not a causal language model, or a task of another vocabulary."""
    if (
        model.hf.config.is_encoder_decoder
        or not model.towers[MAIN].is_causal
        or model.hf.get_output_embeddings() is None
    ):
        raise ValueError(
            f"{model.name!r} ({type(model.hf).__name__}) is not a causal language model; a sweep reads the next "
            "token's logits, so give a decoder such as Llama or GPT-2."
        )
    task.check_vocabulary(vocabulary_of(model))
