"""Which models, tasks and lengths of text go together."""

from jaxtyping import Int
from torch import Tensor, nn

from headlens.analyses.choice_task import ChoiceTask
from headlens.analyses.task import Task
from headlens.analyses.tokens import vocabulary_of
from headlens.hooks.model import Model
from headlens.hooks.sites import MAIN


def refuse_unfit(model: Model, task: Task | ChoiceTask) -> None:
    """ValueError for a model that is not a causal language model, a task of another vocabulary, or longer prompts than
    the model has positions for."""
    if not _predicts_the_next_token(model):
        raise ValueError(
            f"{model.name!r} ({type(model.hf).__name__}) is not a causal language model; a sweep reads the next "
            "token's logits, so give a decoder such as Llama or GPT-2."
        )
    task.check_vocabulary(vocabulary_of(model))
    refuse_too_long(model, int(task.lengths.max()))


def check_windows(model: Model, windows: Int[Tensor, "window pos"]) -> None:
    """ValueError for a model that does not predict the next token, and for windows that have no loss under it."""
    if not _predicts_the_next_token(model):
        raise ValueError(f"{model.name!r} does not predict the next token, so text has no loss under it.")
    if windows.ndim != 2 or windows.shape[1] < 2 or len(windows) == 0:
        raise ValueError(
            f"Windows of shape {[*windows.shape]} were given; expected [window, pos] with 2 tokens or more."
        )
    refuse_too_long(model, windows.shape[1])


def refuse_too_long(model: Model, length: int) -> None:
    """ValueError for prompts of more tokens than the model's table of absolute positions has room for.

    Rotary and relative positions have no table: such a model runs on any length, if not well.
    """
    most = _absolute_positions(model)
    if most is not None and length > most:
        raise ValueError(
            f"Prompts of {length} tokens were given, and {model.name} ({type(model.hf).__name__}) has {most} "
            f"positions; give prompts of {most} tokens or fewer."
        )


def _predicts_the_next_token(model: Model) -> bool:
    encodes = getattr(model.hf.config, "is_encoder_decoder", False)
    return not encodes and model.towers[MAIN].is_causal and model.hf.get_output_embeddings() is not None


def _absolute_positions(model: Model) -> int | None:
    """How many positions have a learned vector of their own; None where they have none.

    A configuration names a size for rotary positions too, so the table itself is looked for: of that size (which a
    vision tower's is not), some rows of it unused in front of the first position (OPT), or behind the padding id of the
    table (RoBERTa).
    """
    size = getattr(model.hf.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if size is None:
        return None
    for name, table in model.hf.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(table, nn.Embedding) and ("position" in last or last == "wpe"):
            if table.num_embeddings == size + getattr(table, "offset", 0):
                return size if table.padding_idx is None else size - table.padding_idx - 1
    return None
