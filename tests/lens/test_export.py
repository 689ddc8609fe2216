"""Head maps in other tools' formats, read back by those tools."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas
import pytest
from pyarrow import parquet

from headlens.analyses.headmap import HeadMap
from headlens.analyses.headmap_json import from_json
from headlens.export import FORMATS, export


def example():
    """Make a map of 3 layers and 5 heads from 7 prompts of 3 templates, with a cell that is missing."""
    rng = np.random.default_rng(5)
    samples = rng.normal(size=(7, 3, 5)).astype(np.float32)
    samples[:, 1, 4] = np.nan
    scale = rng.normal(3, 0.5, 7).astype(np.float32)
    return HeadMap.from_samples(
        samples,
        scale,
        dims=("layer", "head"),
        name="patching effect",
        units="fraction",
        sign="Positive means: restores.",
        clusters=tuple("abcabca"),
        provenance={"model": "tiny", "seed": 0},
    )


@pytest.fixture
def headmap():
    return example()


@pytest.mark.parametrize("to", FORMATS)
def test_the_same_map_makes_the_same_bytes(headmap, tmp_path, to):
    path = export(headmap, to, tmp_path / "here" / f"first.{to}")
    assert path == tmp_path / "here" / f"first.{to}"
    # another process, where hashes and with them the orders of sets and dicts may differ
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_export; "
        "test_export.export(test_export.example(), *sys.argv[2:])"
    )
    second = tmp_path / f"second.{to}"
    subprocess.run(
        [sys.executable, "-P", "-c", code, str(__file__).rpartition("test_export")[0], to, second], check=True
    )
    assert path.read_bytes() == second.read_bytes()
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_parquet_holds_the_frame_and_what_it_means(headmap, tmp_path):
    table = parquet.read_table(export(headmap, "parquet", tmp_path / "map.parquet"))
    frame = headmap.to_frame()
    assert table.column_names == ["label", "layer", "head", "value", "low", "high"] == [*frame.columns]
    assert table.column("label").to_pylist() == frame["label"].tolist()
    for name in ("layer", "head", "value", "low", "high"):
        assert np.array_equal(table.column(name).to_numpy(), frame[name].to_numpy(), equal_nan=True)
    about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert about["name"] == "patching effect" and about["units"] == "fraction"
    assert about["sign"] == "Positive means: restores."
    assert about["interval"] == "95%, percentile bootstrap over 3 templates, 2000 resamples, seed 0"
    assert json.loads(about["provenance"]) == {"model": "tiny", "seed": 0}
    assert str(table.schema.field("value").type) == "float"


def test_parquet_takes_coords_of_two_types(headmap, tmp_path):
    named = replace(headmap, coords={"layer": ("embed", 1, 2)})
    table = parquet.read_table(export(named, "parquet", tmp_path / "map.parquet"))
    assert table.column("layer").to_pylist()[::5] == ["embed", "1", "2"]


def test_csv_holds_the_frame(headmap, tmp_path):
    path = export(headmap, "csv", tmp_path / "map.csv")
    back, frame = pandas.read_csv(path), headmap.to_frame()
    assert [*back.columns] == [*frame.columns] and b"\r" not in path.read_bytes()
    assert back["label"].tolist() == frame["label"].tolist()
    for name in ("value", "low", "high"):
        assert np.array_equal(back[name].to_numpy(np.float32), frame[name].to_numpy(), equal_nan=True)


def test_npz_holds_plain_arrays(headmap, tmp_path):
    interval = headmap.ci()
    with np.load(export(headmap, "npz", tmp_path / "map.npz"), allow_pickle=False) as arrays:
        assert set(arrays) == {"values", "low", "high", "samples", "scale", "description"}
        expected = {"values": headmap.values, "samples": headmap.samples, "scale": headmap.scale}
        for name, array in {**expected, "low": interval.low, "high": interval.high}.items():
            assert arrays[name].dtype == np.float32 and np.array_equal(arrays[name], array, equal_nan=True)
        about = json.loads(str(arrays["description"]))
    assert about["dims"] == ["layer", "head"] and about["provenance"] == {"model": "tiny", "seed": 0}
    assert about["interval"].startswith("95%, percentile bootstrap")


@pytest.mark.parametrize(
    ("to", "load"), [("json", lambda path: from_json(path.read_text())), ("safetensors", HeadMap.load)]
)
def test_a_map_comes_back_whole(headmap, tmp_path, to, load):
    back = load(export(headmap, to, tmp_path / f"map.{to}"))
    assert np.array_equal(back.samples, headmap.samples, equal_nan=True)
    assert back.described() == headmap.described()


@pytest.fixture
def two_metrics(headmap):
    """The second metric's samples are 5 times as large and its scale 10 times: its values are half the first's."""
    return HeadMap.from_samples(
        np.stack([headmap.samples, 5 * headmap.samples], -1),
        np.stack([headmap.scale, 10 * headmap.scale], -1),
        dims=(*headmap.dims, "metric"),
        name="patching effect",
        units="fraction",
        sign="Positive means: restores.",
        coords={"metric": ("prob", "kl")},
    )


@pytest.mark.parametrize(
    ("to", "read"),
    [
        ("parquet", pandas.read_parquet),
        ("csv", pandas.read_csv),
        ("json", lambda path: from_json(path.read_text()).to_frame()),
        ("safetensors", lambda path: HeadMap.load(path).to_frame()),
    ],
)
def test_a_map_of_several_metrics_has_a_row_for_each(two_metrics, tmp_path, to, read):
    frame = read(export(two_metrics, to, tmp_path / f"map.{to}"))
    assert frame["label"].tolist()[:3] == ["L0H0 prob", "L0H0 kl", "L0H1 prob"]
    assert frame["metric"].tolist() == ["prob", "kl"] * 15
    for column in ("value", "low", "high"):
        first, second = frame[column].to_numpy().reshape(15, 2).T
        np.testing.assert_allclose(second, first / 2, rtol=1e-5)


def test_npz_holds_a_scale_for_each_metric(two_metrics, tmp_path):
    with np.load(export(two_metrics, "npz", tmp_path / "map.npz"), allow_pickle=False) as arrays:
        assert arrays["scale"].shape == (7, 2) and np.array_equal(arrays["scale"], two_metrics.scale)
        assert np.array_equal(arrays["values"], two_metrics.values, equal_nan=True)


def test_html_is_the_report(headmap, tmp_path):
    from headlens.report import report_html

    assert export(headmap, "html", tmp_path / "map.html").read_text() == report_html(headmap)


@pytest.mark.parametrize("to", FORMATS)
def test_a_map_without_samples_is_exported(headmap, tmp_path, to):
    bare = replace(headmap, samples=None, scale=None, clusters=())
    assert export(bare, to, tmp_path / f"map.{to}").stat().st_size > 100


@pytest.mark.parametrize(
    ("given", "says"),
    [("parket", "Did you mean 'parquet'"), ("JSON", "Did you mean 'json'"), ("xlsx", "parquet, csv, json, npz")],
)
def test_an_unknown_format_is_refused(headmap, tmp_path, given, says):
    with pytest.raises(ValueError, match=says):
        export(headmap, given, tmp_path / "map")
    assert not list(tmp_path.iterdir())
