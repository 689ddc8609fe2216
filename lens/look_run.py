"""Runs of `headlens look` and `headlens divergence`: from what they are of to their files and what is printed."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headlens.analyses.headmap import HeadMap
    from headlens.analyses.vision.gaze import Gaze
    from headlens.carry_out import Done
    from headlens.hooks.model import Model
    from headlens.source import Source
    from headlens.work import Ready

REPORT_FILE = "report.html"
SHOWN = 10


def looking(ready: "Ready", folder: Path, fresh: bool) -> "Gaze":
    """The gaze of the one prompt, in a run folder that this process alone is using."""
    from headlens.analyses.checkpoints import Checkpoint
    from headlens.analyses.vision.gaze import gaze
    from headlens.analyses.vision.samples_origin import samples_origin

    answer, most, _ = ready.plan
    identity = {"analysis": "look", **samples_origin(ready.model, ready.task), "answer": answer, "max_new_tokens": most}
    with Checkpoint.open(folder, identity, resume=not fresh):
        return gaze(ready.model, ready.task.inputs[0], answer=answer, max_new_tokens=most)


def write_look(ready: "Ready", source: "Source", found: "Gaze", folder: Path) -> list[str]:
    """The gaze, its table and its page, atomically, beside what they are of; returns their names."""
    from headlens.analyses.atomic import write_text
    from headlens.gaze_report import write_gaze_report
    from headlens.runs import GAZE_FILE, GAZE_TABLE, keep

    keep(ready.files, folder)
    found.save(folder / GAZE_FILE)
    write_text(folder / GAZE_TABLE, found.to_frame().to_csv(index=False, lineterminator="\n"))
    pictures = drawn(ready.model, source, ready.task.inputs[0])
    prompt = ready.task.facts[0]["prompt"]
    write_gaze_report({"": found}, pictures, folder / REPORT_FILE, prompt=prompt, heads=ready.plan.heads)
    return [GAZE_FILE, GAZE_TABLE, REPORT_FILE]


def looked(done: "Done[Gaze]") -> str:
    """What was said, and the heads that look most at the image meanwhile."""
    ready, found = done.ready, done.result
    about = ready.task.facts[0]
    given = "Given answer" if ready.plan.answer is not None else "Answer"
    return "\n".join(
        [
            f"“{about['prompt']}” beside {', '.join(about['pictures'])} {done.took}",
            f"{given}: {found.answer}",
            _unknown(ready.model, ready.task.inputs[0]),
            most_looking(found, ready.plan.heads),
        ]
    ).replace("\n\n", "\n")


def most_looking(found: "Gaze", heads: Any = None) -> str:
    """The heads that look most at the image over the answer, a line each, with the patch they look at most."""
    from headlens.ranking import counted

    table = found.top(found.attention.shape[1] * found.attention.shape[2])
    if heads is not None:
        table = table[table["label"].isin([str(head) for head in heads])]
    places = [*(("picture", "level") if len(found.grids) > 1 else ()), "row", "column"]
    lines = []
    for _, row in table.head(SHOWN).iterrows():
        where = ", ".join(f"{place} {row[place]}" for place in places)
        lines.append(f"  {row['label']:<7}{row['share']:>6.1%}   {where} ({row['patch']:.1%})")
    over = counted(len(found.answer_tokens), "token")
    title = f"Share of attention on image patches over the {over} of the answer, and the patch with most of it:"
    return "\n".join([title, *lines])


def diverging(ready: "Ready", folder: Path, fresh: bool) -> "HeadMap":
    """The map of head divergence, in a run folder that this process alone is using."""
    from headlens.analyses.vision.divergence.divergence_run import divergence_run

    return divergence_run(ready.model, ready.task, run=folder, resume=not fresh, **ready.plan)


def diverged(done: "Done[HeadMap]", shown: int) -> str:
    """What was measured, and the heads that move most."""
    from headlens.ranking import cells_of, counted, described

    samples = done.ready.task
    which = counted(len(samples), "prompt")
    groups = len({*samples.clusters})
    over = f" about {counted(groups, 'picture')}" if groups < len(samples) else ""
    return f"{cells_of(done.result)} on {which}{over} {done.took}\n{described(done.result, shown)}"


def drawn(model: "Model", source: "Source", inputs: Any) -> list[Any]:
    """The source's pictures as the model saw them."""
    from headlens.analyses.vision.image_prompts import open_picture
    from headlens.seen_pictures import seen_pictures

    return seen_pictures(model, inputs, [open_picture(path) for path in source.pictures])


def _unknown(model: "Model", inputs: Any) -> str:
    """A warning where the prompt has words that the tokenizer does not know."""
    from headlens.analyses.tokens import text_tokenizer
    from headlens.ranking import counted

    unknown = getattr(text_tokenizer(model), "unk_token_id", None)
    count = 0 if unknown is None else int((inputs["input_ids"] == unknown).sum())
    return f"Note: the tokenizer of {model.name} does not know {counted(count, 'word')} of the prompt." if count else ""
