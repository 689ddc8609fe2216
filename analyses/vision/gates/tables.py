"""Reports as tables in Markdown, as CSV and as JSON."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from headlens.analyses.vision.gates.figures import Figure, number
from headlens.analyses.vision.gates.gates import Report

_EDGES = ("0", "0.5", "1", "1.5", "2", "2.5", "3", "threshold")
# A table for each: title, its gates, and header by measure; "*" where the interval stands beside the value.
_TABLES = (
    (
        "Answers",
        ("G1", "G2", "G5", "G8"),
        {
            "accuracy": "accuracy*",
            "false_positive_rate": "false positives*",
            "recall": "recall",
            "yes_ratio": "yes ratio",
            "auroc": "AUROC*",
            "margin_if_yes": "margin, present",
            "margin_of_partners": "margin, absent partner",
            "margin_of_others": "margin, other absent",
        },
    ),
    (
        "Changes from no edit, on the same questions",
        ("G5", "G8"),
        {
            "change in accuracy": "accuracy*",
            "change in false_positive_rate": "false positives*",
            "change in recall": "recall*",
            "change in auroc": "AUROC*",
            "change in margin_if_yes": "margin, present",
            "change in margin_of_partners": "margin, absent partner",
            "change in margin_of_others": "margin, other absent",
            "false_positive_rate at recall 0.98": "false positives at recall 0.98",
            "decisions flipped": "decisions flipped",
        },
    ),
    (
        "Descriptions",
        ("G7",),
        {
            "chair_i": "CHAIR_I*",
            "chair_s": "CHAIR_S",
            "recall": "recall",
            "object_f1": "object F1",
            "partner_rate": "partner rate*",
            "words": "words",
            "truncated": "cut off",
        },
    ),
    (
        "Changes in descriptions",
        ("G7",),
        {
            "change in chair_i": "CHAIR_I*",
            "change in chair_s": "CHAIR_S*",
            "change in recall": "recall*",
            "change in object_f1": "object F1*",
            "change in partner_rate": "partner rate*",
            "change in words": "words*",
        },
    ),
    (
        "Share of patches by phi, with the sink dimensions above",
        ("G8",),
        {
            **{f"phi {low} to {high}": f"{low} to {high}" for low, high in zip(_EDGES, _EDGES[1:], strict=False)},
            "phi above threshold": "above",
            "largest phi": "largest",
            "sinks' share of visual attention": "attention of those above",
        },
    ),
    (
        "Planted sinks",
        ("G8",),
        {
            "margin": "margin of the right answer",
            "right": "accuracy",
            "KL": "KL(clean, edited)",
            "recovered margin": "recovered margin*",
            "recovered KL": "recovered KL*",
        },
    ),
    (
        "T-VHD, area for true over hallucinated mentions",
        ("T-VHD",),
        {
            "auroc": "all pairs*",
            "auroc_within_words": "within words*",
            "auroc_within_places": "within places*",
            "auroc_within_both": "within both*",
            "hallucinated mentions": "hallucinated",
            "mentions": "mentions",
        },
    ),
)
_REST = ("G2", "G3", "G4", "G8")


def printed(report: Report) -> str:
    """The gates, and then what they rest on."""
    parts = [f"## {report.model}", _gates(report)]
    told: set[tuple[str, str]] = set()
    for title, gates, columns in _TABLES:
        rows = _rows(report.figures, gates, columns)
        if rows:
            parts.append(f"### {title}\n\n" + _markdown(["", *(name.rstrip("*") for name in columns.values())], rows))
            told |= {(one.about, one.measure) for one in report.figures if one.measure in columns}
    rest = [one for one in report.figures if one.gate in _REST and (one.about, one.measure) not in told]
    rest = [one for one in rest if " at recall " not in one.measure and one.measure not in _TOLD_ELSEWHERE]
    rows = [[one.gate, one.about, one.measure, _cell(one, True), _range(one)] for one in rest]
    if rows:
        parts.append("### Single figures\n\n" + _markdown(["gate", "of", "measure", "value", "among seeds"], rows))
    return "\n\n".join(parts) + "\n"


# Of answers, beside what the tables have.
_TOLD_ELSEWHERE = ("accuracy", "margin_if_no", "change in margin_if_no")


def as_csv(reports: Sequence[Report]) -> str:
    """A row for each figure of each model."""
    names = [one.name for one in fields(Figure)]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["model", *names])
    for report in reports:
        for figure in report.figures:
            rows.writerow([report.model, *(_plain(getattr(figure, name)) for name in names)])
    return text.getvalue()


def as_json(reports: Sequence[Report]) -> str:
    """All of it; null is what is not defined."""
    made = [
        {
            "model": report.model,
            "origin": dict(report.origin),
            "gates": [vars(one) for one in report.gates],
            "figures": [{name: _null(value) for name, value in vars(one).items()} for one in report.figures],
        }
        for report in reports
    ]
    return json.dumps(made, indent=1, allow_nan=False) + "\n"


def _gates(report: Report) -> str:
    rows = [[one.name, one.claim, f"**{one.verdict}**", one.reading] for one in report.gates]
    return _markdown(["gate", "claim", "verdict", "reading"], rows)


def _rows(figures: Sequence[Figure], gates: Sequence[str], columns: Mapping[str, str]) -> list[list[str]]:
    """A row for each thing that has the first column's measure."""
    first, rows = [*columns][0], []
    of: dict[str, dict[str, Figure]] = {}
    for one in figures:
        if one.gate in gates:
            of.setdefault(one.about, {})[one.measure] = one
    for about, own in of.items():
        if first in own:
            cells = [_cell(own[name], said.endswith("*")) if name in own else "" for name, said in columns.items()]
            rows.append([about, *cells])
    return rows


def _cell(figure: Figure, interval: bool) -> str:
    said = number(figure.value)
    if figure.measure.startswith("change") and figure.value > 0:
        said = f"+{said}"
    if float(figure.value).is_integer() and abs(figure.value) >= 10:
        said = f"{figure.value:.0f}"
    if not interval or np.isnan(figure.low):
        return said
    return f"{said} [{number(figure.low)}, {number(figure.high)}]"


def _range(figure: Figure) -> str:
    return "" if np.isnan(figure.least) else f"{number(figure.least)} to {number(figure.most)}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _plain(value: Any) -> Any:
    return "" if isinstance(value, float) and np.isnan(value) else value


def _null(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
