"""The command that measures all gates, from end to end on a few scenes."""

import csv
import json
import os
from importlib.resources import files
from pathlib import Path

import pytest

from headlens.analyses.vision.gates.figures import FAILS, Figure, Gate
from headlens.analyses.vision.gates.gates import Report
from headlens.data import gates_tiny_vlm

FOLDER = Path(str(files("headlens.data"))) / "tiny-vlm"
GATES = ["G1", "G2", "G3", "G4", "G5", "G6", "G7", "G8 natural", "G8 dose", "G8 rule"]


@pytest.mark.slow
def test_all_gates_of_a_model_and_a_twin(tmp_path, capsys):
    out = tmp_path / "new" / "gates.csv"
    arguments = [str(FOLDER), "--scenes", "6", "--seeds", "1", "--resamples", "20", "--out", str(out)]
    # the model itself stands in for a twin, which it is not: G2 twin and G3 fail
    code = gates_tiny_vlm.main([*arguments, "--twin", str(FOLDER)])
    said = capsys.readouterr()
    assert code == 1 and "GATE G2 twin FAILS" in said.err and "Nothing measured further down" in said.err
    assert sorted(os.listdir(out.parent)) == ["gates.csv", "gates.json"]
    model, twin = json.loads(out.with_suffix(".json").read_text())
    assert [one["name"] for one in model["gates"]] == GATES
    assert [one["name"] for one in twin["gates"]] == ["G1", "G2 twin", "G3"]
    assert model["origin"]["seeds"] == [101] and model["origin"]["scenes"] == 6
    with out.open() as rows:
        figures = [*csv.DictReader(rows)]
    assert len(figures) == len(model["figures"]) + len(twin["figures"])
    keys = [(one["model"], one["gate"], one["about"], one["measure"]) for one in figures[: len(model["figures"])]]
    assert len({*keys}) == len(keys)
    for title in ("Answers", "Descriptions", "Planted sinks", "T-VHD", "Single figures"):
        assert f"### {title}" in said.out


@pytest.mark.parametrize(("verdict", "code"), [("holds", 0), (FAILS, 1)])
def test_the_command_ends_with_1_where_a_needed_gate_fails(verdict, code, tmp_path, capsys, monkeypatch):
    made = Report("made", (Figure("G1", "a", "accuracy", 0.5),), (Gate("G1", "a claim", verdict, "a reading"),))
    monkeypatch.setattr(gates_tiny_vlm, "gates_of", lambda setting: made)
    out = tmp_path / "gates.csv"
    assert gates_tiny_vlm.main([str(FOLDER), str(FOLDER), "--out", str(out)]) == code
    said = capsys.readouterr()
    assert ("GATE G1 FAILS for made: a claim. a reading." in said.err) == (code == 1)
    # two models, and both together
    assert len(out.read_text().splitlines()) == 4 and "## 2 models" in said.out


@pytest.mark.parametrize("given", [["--scenes", "1"], ["--seeds", "0"], ["--out", "gates.txt"]])
def test_arguments_that_do_not_fit_are_refused(given, capsys):
    with pytest.raises(SystemExit) as ended:
        gates_tiny_vlm.main([str(FOLDER), *given])
    assert ended.value.code == 2 and "must be" in capsys.readouterr().err
