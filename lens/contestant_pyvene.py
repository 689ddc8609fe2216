"""pyvene in a bench: one IntervenableModel a cell, given the clean values so that it need not run the source again."""

import pyvene  # pyright: ignore[reportMissingImports]
from torch import Tensor

from headlens.bench_job import Cell, Job, Sweep
from headlens.peer_model import answer_minus_foil, load_plain, one_forward_a_cell, tokens


def prepare(job: Job) -> Sweep:
    """A function that wraps and runs the model once for each cell."""
    hf, (clean, corrupted), measure = load_plain(job), tokens(job), answer_minus_foil(job)
    n_layers, n_heads = hf.config.num_hidden_layers, hf.config.num_attention_heads
    prompts, everywhere = len(clean), [*range(job.length)]
    how = {"use_cache": False, "logits_to_keep": 1}

    def before() -> tuple[list[Tensor], Tensor]:
        collected = {
            "component": "attention_value_output",
            "unit": "pos",
            "max_number_of_units": job.length,
            "intervention_type": pyvene.CollectIntervention,
        }
        model = pyvene.IntervenableModel([{"layer": layer, **collected} for layer in range(n_layers)], model=hf)
        where = [[everywhere] * prompts] * n_layers
        (_, clean_z), _ = model({"input_ids": clean, **how}, unit_locations={"base": where})
        return [z.unflatten(-1, (n_heads, -1)) for z in clean_z], measure(hf(input_ids=corrupted, **how).logits)

    def patched(clean_z: list[Tensor], cell: Cell) -> Tensor:
        replaced = {
            "layer": cell.layer,
            "component": "head_attention_value_output",
            "unit": "h.pos",
            "intervention_type": pyvene.VanillaIntervention,
        }
        positions = everywhere if cell.pos is None else [cell.pos]
        where = [[[[cell.head]] * prompts, [positions] * prompts]]
        _, output = pyvene.IntervenableModel(replaced, model=hf)(
            {"input_ids": corrupted, **how},
            source_representations=[clean_z[cell.layer][:, positions, cell.head][:, None]],
            unit_locations={"sources->base": (where, where)},
        )
        return measure(output.logits)

    return one_forward_a_cell(job, before, patched)
