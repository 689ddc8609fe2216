"""A run of `headlens redistribute`: answers and gazes before and after, which heads were chosen, and what moved."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headlens.analyses.headmap import HeadMap
    from headlens.analyses.vision.gaze import Gaze
    from headlens.carry_out import Done
    from headlens.hooks.report import Report
    from headlens.source import Source
    from headlens.work import Ready


@dataclass(frozen=True, eq=False)
class Moved:
    """What came of it. `report` counts the run of the prompt with the answer that was given under the edit."""

    before: "Gaze"
    after: "Gaze"
    chosen: "HeadMap"
    report: "Report"


def moving(ready: "Ready", folder: Path, fresh: bool) -> Moved:
    """Answer without the edit and under it, in a run folder that this process alone is using."""
    from headlens.analyses.checkpoints import Checkpoint
    from headlens.analyses.vision.answers import greedy_answer
    from headlens.analyses.vision.gaze import gaze
    from headlens.analyses.vision.redistribution.image_centric import image_centric_heads
    from headlens.analyses.vision.redistribution.redistribution import CONVENTIONS
    from headlens.analyses.vision.samples_origin import samples_origin
    from headlens.hooks.report import Report

    model, samples = ready.model, ready.task
    edit, _, settings, most = ready.plan
    identity = {"analysis": "redistribute", **samples_origin(model, samples), **settings, "max_new_tokens": most}
    with Checkpoint.open(folder, identity, resume=not fresh):
        (inputs,) = samples.inputs
        before = gaze(model, inputs, max_new_tokens=most)
        said = greedy_answer(model, inputs, max_new_tokens=most, edits=[edit])
        report = Report()
        with model.edited(edit, report=report):
            after = gaze(model, inputs, answer=said)
        bounds = {name: settings[name] for name in ("non_sink", "floor")}
        bias = CONVENTIONS[settings["convention"]].bias
        chosen = image_centric_heads(model, samples, edit.donors, **bounds, bias=bias)["chosen"]
    return Moved(before, after, chosen, report)


def write_moved(ready: "Ready", source: "Source", found: Moved, folder: Path) -> list[str]:
    """The map of chosen heads in every form, both gazes, what moved, and the page; returns their names."""
    from headlens.analyses.atomic import write_text
    from headlens.export import export
    from headlens.gaze_report import write_gaze_report
    from headlens.look_run import REPORT_FILE, drawn
    from headlens.runs import AFTER_FILE, BEFORE_FILE, HEADS_FILE, MOVED_FILE, write_results

    # its report.html is about the map alone, and makes way for the gazes
    written = write_results(found.chosen, ready.files, folder)
    export(found.chosen, "html", folder / HEADS_FILE)
    found.before.save(folder / BEFORE_FILE)
    found.after.save(folder / AFTER_FILE)
    write_text(folder / MOVED_FILE, found.report.to_frame().to_csv(index=False, lineterminator="\n"))
    write_gaze_report(
        {"before": found.before, "after": found.after},
        drawn(ready.model, source, ready.task.inputs[0]),
        folder / REPORT_FILE,
        prompt=ready.task.facts[0]["prompt"],
        words=[ready.plan.sinks, found.report.described()],
    )
    return [*written, HEADS_FILE, BEFORE_FILE, AFTER_FILE, MOVED_FILE]


def moved_words(done: "Done[Moved]", shown: int) -> str:
    """Sinks, answers, chosen heads and what moved, in words."""
    from headlens.ranking import described

    ready, found = done.ready, done.result
    about = ready.task.facts[0]
    same = found.before.provenance["answer_ids"] == found.after.provenance["answer_ids"]
    edited = found.chosen.sel(layer=ready.plan.settings["layers"])
    if edited.values.any():
        chosen = described(edited, shown)
    else:
        chosen = "No head is image-centric by this rule, in any row, so nothing moved; try a smaller --floor."
    return "\n".join(
        [
            f"“{about['prompt']}” beside {', '.join(about['pictures'])} {done.took}",
            ready.plan.sinks,
            f"Before: {found.before.answer}",
            f"After:  {found.after.answer}{' (the same)' if same else ''}",
            chosen,
            found.report.described(),
        ]
    )
