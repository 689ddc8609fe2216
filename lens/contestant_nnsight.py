"""nnsight in a bench: one trace a cell, which writes clean values into the input of an output projection."""

from typing import Any

import nnsight  # pyright: ignore[reportMissingImports]
from torch import Tensor

from headlens.bench_job import Cell, Job, Sweep
from headlens.hooks.model import wrap
from headlens.peer_model import answer_minus_foil, load_plain, one_forward_a_cell, tokens


def prepare(job: Job) -> Sweep:
    """A function that traces the model once for each cell."""
    hf, (clean, corrupted), measure = load_plain(job), tokens(job), answer_minus_foil(job)
    held = wrap(hf)
    names = {module: name for name, module in hf.named_modules()}
    model = nnsight.NNsight(hf)
    projections = [model.get(names[layer.output_projection]) for layer in held.layers]
    how = {"use_cache": False, "logits_to_keep": 1}

    def before() -> tuple[list[Tensor], Tensor]:
        logits: Any = None
        with model.trace(input_ids=clean, **how):
            clean_z = nnsight.save([projection.input for projection in projections])
        with model.trace(input_ids=corrupted, **how):
            logits = model.output.logits.save()
        return clean_z, measure(logits)

    def patched(clean_z: list[Tensor], cell: Cell) -> Tensor:
        columns = slice(cell.head * held.d_head, (cell.head + 1) * held.d_head)
        rows = slice(None) if cell.pos is None else cell.pos
        projection, wanted = projections[cell.layer], clean_z[cell.layer][:, rows, columns]
        logits: Any = None
        with model.trace(input_ids=corrupted, **how):
            projection.input[:, rows, columns] = wanted
            logits = model.output.logits.save()
        return measure(logits)

    return one_forward_a_cell(job, before, patched)
