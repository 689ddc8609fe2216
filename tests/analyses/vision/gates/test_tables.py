"""Reports printed, written and put beside each other."""

import csv
import io
import json

import numpy as np
import pytest

from headlens.analyses.vision.gates.figures import FAILS, HOLDS, UNDEFINED, Figure, Gate
from headlens.analyses.vision.gates.gates import Report, across
from headlens.analyses.vision.gates.tables import as_csv, as_json, printed

NAN = float("nan")


def report(name="tiny", value=0.5, verdict=HOLDS):
    figures = (
        Figure("G1", "as trained", "accuracy", value, 0.4, 0.6, 0.45, 0.55),
        Figure("G1", "as trained", "auroc", NAN),
        Figure("G5", "VHR x2", "accuracy", 0.7, 0.65, 0.75),
        Figure("G5", "VHR x2", "change in accuracy", 0.2, 0.1, 0.3),
        Figure("G3", "P(partner | told)", "distance", 0.004, least=0.001, most=0.01),
    )
    gates = (Gate("G1", "accuracy | clear", verdict, "why"), Gate("G4", "heads", FAILS, ""))
    return Report(name, figures, gates, {"seeds": [1, 2]})


def test_a_report_is_told_as_tables():
    said = printed(report())
    lines = said.splitlines()
    assert lines[0] == "## tiny" and "| G1 | accuracy \\| clear | **holds** | why |" in lines
    assert "| as trained | 0.500 [0.400, 0.600] |  |  |  | - |  |  |  |" in lines
    assert any(line.startswith("| VHR x2 | +0.200 [0.100, 0.300] |") for line in lines)
    assert "| G3 | P(partner \\| told) | distance | 0.004 | 0.001 to 0.010 |" in lines
    # what a table has is not told twice
    assert said.count("0.700 [0.650, 0.750]") == 1


def test_every_figure_is_written():
    rows = [*csv.DictReader(io.StringIO(as_csv([report(), report("other")])))]
    assert len(rows) == 10 and {row["model"] for row in rows} == {"tiny", "other"}
    assert rows[0]["value"] == "0.5" and rows[0]["least"] == "0.45" and rows[1]["value"] == "" == rows[1]["low"]
    made = json.loads(as_json([report()]))
    assert made[0]["origin"] == {"seeds": [1, 2]} and made[0]["gates"][0]["verdict"] == "holds"
    assert made[0]["figures"][1]["value"] is None and made[0]["figures"][0]["high"] == 0.6


def test_models_beside_each_other():
    found = across([report(value=0.5), report("other", 0.7, FAILS), report("third", NAN, FAILS)])
    first = found.figures[0]
    assert (first.value, first.least, first.most) == (pytest.approx(0.6), 0.5, 0.7) and np.isnan(first.low)
    g1, g4 = found.gates
    assert g1.verdict == "differs" and g1.reading == "holds for 1, fails for 2 of 3 models"
    assert g4.verdict == FAILS and g4.reading == "fails for 3 of 3 models"


@pytest.mark.parametrize(("verdict", "broken"), [(HOLDS, []), (FAILS, ["G1"]), (UNDEFINED, [])])
def test_only_gates_that_all_else_needs_break_a_report(verdict, broken):
    assert [one.name for one in report(verdict=verdict).broken] == broken
