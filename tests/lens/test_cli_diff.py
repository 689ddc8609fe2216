"""`headlens diff` as a person types it, on maps made here."""

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from headlens.analyses.comparison import compare
from headlens.analyses.headmap import HeadMap
from headlens.cli import OneSentence
from headlens.cli_diff import diff
from headlens.export import export
from headlens.runs import read_result

app = typer.Typer(cls=OneSentence, rich_markup_mode=None)
app.command()(diff)


@app.callback()
def main(debug: bool = False) -> None:
    """Take the option that every command of `headlens` has."""


@pytest.fixture
def run():
    """Run `diff` with the given words in this process."""
    return lambda *words: CliRunner().invoke(app, ["diff", *map(str, words)])


@pytest.fixture
def runs(tmp_path):
    """Make a finished run folder and a JSON file of another map, which differ in one head."""
    draw = np.random.default_rng(0)
    first = draw.normal(0, 0.1, size=(12, 3, 4)) + draw.normal(size=(3, 4))
    second = first + draw.normal(0, 0.1, size=first.shape)
    second[:, 2, 1] += 5
    for name, samples in (("one", first), ("two", second)):
        headmap = HeadMap.from_samples(
            samples.astype(np.float32),
            dims=("layer", "head"),
            name="patching effect",
            units="fraction",
            sign="Positive means: carries the clean behaviour.",
            provenance={"model": name, "task_hash": "p"},
        )
        (tmp_path / name).mkdir()
        headmap.save(tmp_path / name / "headmap.safetensors")
        export(headmap, "json", tmp_path / f"{name}.json")
    return tmp_path


def test_it_prints_the_comparison_and_what_differs_most(run, runs):
    result = run(runs / "one", runs / "two.json", "--top", 3)
    assert result.exit_code == 0, result.output
    expected = compare(read_result(runs / "one"), read_result(runs / "two"), k=3)
    assert result.stdout.startswith(expected.described())
    assert "Note: the models differ (one; two)." in result.stdout
    ranked = [line.split() for line in result.stdout.splitlines() if line.startswith("  L")]
    assert len(ranked) == 3 and ranked[0][0] == "L2H1" and float(ranked[0][1]) == pytest.approx(-5, abs=0.2)
    assert float(ranked[0][2].strip("[,")) < float(ranked[0][1]) < float(ranked[0][3].strip("]"))


def test_order_decides_the_sign(run, runs):
    assert "L2H1  +" in run(runs / "two", runs / "one").stdout and "L2H1  -" in run(runs / "one", runs / "two").stdout


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
def test_the_difference_is_written_and_read_back(run, runs, suffix):
    target = runs / f"new/difference.{suffix}"
    result = run(runs / "one", runs / "two", "--out", target)
    assert result.exit_code == 0 and result.stdout.endswith(f"Wrote {target}\n")
    expected = compare(read_result(runs / "one"), read_result(runs / "two")).difference
    back = read_result(target)
    assert np.array_equal(back.values, expected.values) and np.array_equal(back.ci().low, expected.ci().low)


def test_maps_without_samples_are_told_apart_too(run, runs):
    for name in ("one", "two"):
        headmap = read_result(runs / name)
        about = {key: value for key, value in headmap.described().items() if key not in ("coords", "clusters", "dims")}
        HeadMap(values=headmap.values, dims=headmap.dims, **about).save(runs / name / "headmap.safetensors")
    result = run(runs / "one", runs / "two")
    assert result.exit_code == 0 and "no interval" in result.stdout and "95% interval" not in result.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["one", "nowhere"], "There is no nowhere; give a run folder"),
        (["one", "."], "it is not a run"),
        (["broken.json", "one"], "broken.json is not a head map"),
        (
            ["one", "two", "--out", "difference.csv"],
            "cannot be written to difference.csv; give a .safetensors or .json",
        ),
        (["one", "flat.safetensors"], "The maps have different dims (layer, head; head)"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(run, runs, words, sentence, monkeypatch):
    monkeypatch.chdir(runs)
    (runs / "broken.json").write_text("{")
    read_result(runs / "one").sel(layer=1).save(runs / "flat.safetensors")
    result = run(*words)
    assert result.exit_code == 1 and sentence in result.stderr and result.stderr.count("\n") == 1
    assert not result.stdout and not (runs / "difference.csv").exists()
