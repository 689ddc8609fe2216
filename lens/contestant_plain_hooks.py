"""The strongest simple way, in a bench: a Hugging Face model, and a PyTorch hook before an output projection.

One whole forward a cell, with transformers' own attention, unembedding nothing but the last position.
"""

from torch import Tensor, nn

from headlens.bench_job import Cell, Job, Sweep
from headlens.hooks.model import wrap
from headlens.peer_model import answer_minus_foil, load_plain, one_forward_a_cell, tokens


def prepare(job: Job) -> Sweep:
    """A function that runs the model once for each cell."""
    hf, (clean, corrupted), measure = load_plain(job), tokens(job), answer_minus_foil(job)
    model = wrap(hf)
    projections = [layer.output_projection for layer in model.layers]

    def logits(ids: Tensor) -> Tensor:
        return hf(input_ids=ids, use_cache=False, logits_to_keep=1).logits

    def before() -> tuple[list[Tensor], Tensor]:
        clean_z: list[Tensor] = []

        def keep(module: nn.Module, args: tuple) -> None:
            clean_z.append(args[0])

        handles = [projection.register_forward_pre_hook(keep) for projection in projections]
        logits(clean)
        for handle in handles:
            handle.remove()
        return clean_z, measure(logits(corrupted))

    def patched(clean_z: list[Tensor], cell: Cell) -> Tensor:
        columns = slice(cell.head * model.d_head, (cell.head + 1) * model.d_head)
        rows = slice(None) if cell.pos is None else cell.pos

        def put_in(module: nn.Module, args: tuple) -> tuple:
            z = args[0].clone()
            z[:, rows, columns] = clean_z[cell.layer][:, rows, columns]
            return (z, *args[1:])

        handle = projections[cell.layer].register_forward_pre_hook(put_in)
        measured = measure(logits(corrupted))
        handle.remove()
        return measured

    return one_forward_a_cell(job, before, patched)
