"""HeadMap: what it refuses, selects, ranks, and that a file of it holds all of it."""

import numpy as np
import pytest

from headlens.analyses.headmap import HeadMap

ABOUT = {"name": "effect", "units": "logits", "sign": "Positive means: carries the clean behaviour."}


def map_of(prompts=6, layers=3, heads=2, **fields):
    draw = np.random.default_rng(0)
    samples = draw.normal(size=(prompts, layers, heads)).astype(np.float32)
    fields = {"clusters": tuple("aabbcc"[:prompts]), "provenance": {"model": "m", "n": 3}, **fields}
    return HeadMap.from_samples(samples, np.full(prompts, 2, np.float32), dims=("layer", "head"), **ABOUT, **fields)


def test_values_are_a_ratio_of_means_over_the_prompts_that_have_the_cell():
    samples = np.array([[[1.0, np.nan]], [[3.0, 5.0]]], np.float32)
    found = HeadMap.from_samples(samples, np.array([2, 6], np.float32), dims=("layer", "head"), **ABOUT)
    np.testing.assert_allclose(found.values, [[4 / 8, 5 / 6]], rtol=1e-6)
    nowhere = HeadMap.from_samples(np.full((2, 1), np.nan), dims=("head",), **ABOUT)
    assert np.isnan(nowhere.values).all() and np.isnan(nowhere.ci().low).all()


def test_nothing_in_it_can_be_changed():
    source = np.zeros((1, 2), np.float32)
    found = HeadMap(values=source, dims=("layer", "head"), **ABOUT)
    source[0, 0] = 7
    assert found.values[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        found.values[0, 0] = 1


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"dims": ("layer",)}, "2 axes, but 1 dims were named"),
        ({"dims": ("layer", "banana")}, "expected each at most once out of layer"),
        ({"dims": ("layer", "layer")}, "at most once"),
        ({"coords": {"head": (1, 2, 3)}}, "Dim 'head' has 2 entries and 3 coords"),
        ({"samples": np.zeros((4, 2, 3))}, r"do not go with values \(3, 2\)"),
        ({"samples": np.zeros((4, 3, 2)), "scale": np.ones(3)}, "do not go with"),
        ({"samples": np.zeros((4, 3, 2)), "clusters": ("a",)}, "1 clusters do not go with"),
        ({"samples": np.zeros((4, 3, 2)), "scale": np.ones((4, 2))}, r"expected .* scale \[prompt\] and"),
        (
            {"dims": ("head", "metric"), "samples": np.zeros((4, 3, 2)), "scale": np.ones((4, 3))},
            r"expected .* scale \[prompt, metric\] and",
        ),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        HeadMap(**{"values": np.zeros((3, 2)), "dims": ("layer", "head"), **ABOUT, **fields})


def test_sel_keeps_names_samples_and_intervals():
    found = map_of(coords={"layer": (4, 8, 12)})
    one = found.sel(layer=8)
    assert one.dims == ("head",) and np.array_equal(one.values, found.values[1])
    assert np.array_equal(one.samples, found.samples[:, 1])
    some = found.sel(layer=[12, 4], head=[1])
    assert some.coords == {"layer": (12, 4), "head": (1,)} and some.label((0, 0)) == "L12H1"
    assert np.array_equal(some.ci().low, found.ci().low[[2, 0]][:, [1]])
    with pytest.raises(ValueError, match="no layer 5; this map has layer 4 to 12"):
        found.sel(layer=5)
    with pytest.raises(ValueError, match="no dim 'pos'; its dims are layer, head"):
        found.sel(pos=1)


def test_top_ranks_by_magnitude_and_leaves_out_what_is_missing():
    found = HeadMap(values=np.array([[0.1, -0.9], [np.nan, 0.5]]), dims=("layer", "head"), **ABOUT)
    assert list(found.top(9)["label"]) == ["L0H1", "L1H1", "L0H0"]
    assert list(found.top(1)["value"]) == [np.float32(-0.9)]
    assert "low" not in found.top(1)
    with_interval = map_of().top(2)
    assert (with_interval["low"] <= with_interval["value"]).all() and (
        with_interval["value"] <= with_interval["high"]
    ).all()


@pytest.mark.parametrize(
    ("dims", "coords", "label"),
    [
        (("layer", "head"), {}, "L2H1"),
        (("head", "layer"), {}, "L1H2"),
        (("layer", "pos"), {}, "L2@1"),
        (("layer",), {}, "L2"),
        (("head",), {"head": (4, 5, 6)}, "H6"),
        (("layer", "head", "pos"), {"pos": ("IO", "S2")}, "L2H1@S2"),
        (("layer", "head", "query", "key"), {"query": (12, 13)}, "L2H1 q13 k1"),
        (("query", "key"), {}, "q2 k1"),
        (("layer", "head", "metric"), {"metric": ("prob", "logit_diff")}, "L2H1 logit_diff"),
        (("layer", "pos", "metric"), {"pos": ("IO", "S2"), "metric": ("prob", "logit_diff")}, "L2@S2 logit_diff"),
        (("task", "metric"), {"task": ("a", "b", "ioi"), "metric": ("prob", "kl")}, "ioi kl"),
    ],
)
def test_labels_read_well(dims, coords, label):
    shape = (3, 2, 2, 2)[: len(dims)]
    found = HeadMap(values=np.zeros(shape), dims=dims, coords=coords, **ABOUT)
    assert found.label([size - 1 for size in shape]) == label == found.to_frame()["label"].iloc[-1]


def over_metrics(**fields):
    """Make a map of two heads and three metrics, in which each metric has units of its own size."""
    draw = np.random.default_rng(1)
    size = np.array([1, 100, 0.01])
    samples = (draw.normal(size=(6, 2, 3)) * size).astype(np.float32)
    samples[1, 0, 2] = np.nan
    scale = (draw.uniform(1, 2, size=(6, 3)) * size).astype(np.float32)
    fields = {"scale": scale, "clusters": tuple("aabbcc"), **fields}
    coords = {"metric": ("logit_diff", "prob", "kl")}
    return HeadMap.from_samples(samples, dims=("head", "metric"), coords=coords, **ABOUT, **fields)


def test_each_metric_is_a_map_of_its_own_scale():
    found = over_metrics(provenance={"metric": ["logit_diff", "prob", "kl"], "seed": 0})
    for at, metric in enumerate(("logit_diff", "prob", "kl")):
        samples, scale = found.samples[..., at], found.scale[:, at]
        alone = HeadMap.from_samples(samples, scale, dims=("head",), clusters=found.clusters, **ABOUT)
        picked = found.sel(metric=metric)
        assert picked.dims == ("head",) and np.array_equal(picked.scale, scale)
        assert np.array_equal(picked.values, alone.values) and np.array_equal(found.values[:, at], alone.values)
        for end in ("low", "high"):
            np.testing.assert_allclose(getattr(picked.ci(), end), getattr(alone.ci(), end), rtol=1e-6)
            np.testing.assert_allclose(getattr(found.ci(), end)[:, at], getattr(alone.ci(), end), rtol=1e-6)
        assert picked.provenance == {"metric": metric, "seed": 0}
    kept = found.sel(metric=["kl", "prob"], head=1)
    assert kept.dims == ("metric",) and kept.provenance["metric"] == ["kl", "prob"]
    assert np.array_equal(kept.scale, found.scale[:, [2, 1]]) and np.array_equal(kept.values, found.values[1, [2, 1]])


def test_a_frame_of_several_metrics_names_them():
    frame = over_metrics().to_frame()
    assert list(frame.columns) == ["label", "head", "metric", "value", "low", "high"]
    assert frame["label"].tolist()[3:] == ["H1 logit_diff", "H1 prob", "H1 kl"]


def test_one_scale_serves_every_metric():
    once = over_metrics(scale=np.arange(1, 7, dtype=np.float32))
    assert once.scale.shape == (6, 3) and (once.scale == np.arange(1, 7)[:, None]).all()
    assert over_metrics(scale=None).scale.shape == (6, 3)
    inside = HeadMap.from_samples(np.ones((4, 3, 2)), np.full(4, 2), dims=("metric", "head"), **ABOUT)
    assert inside.sel(metric=1).scale.shape == (4,) and (inside.values == 0.5).all()


def test_a_map_of_several_metrics_comes_back_from_a_file(tmp_path):
    found = over_metrics()
    found.save(tmp_path / "map.safetensors")
    back = HeadMap.load(tmp_path / "map.safetensors")
    assert back.described() == found.described() and np.array_equal(back.scale, found.scale)
    assert np.array_equal(back.ci().low, found.ci().low)


def test_a_frame_has_a_row_per_cell():
    frame = map_of().to_frame()
    assert list(frame.columns) == ["label", "layer", "head", "value", "low", "high"] and len(frame) == 6
    assert frame.loc[3, ["label", "layer", "head"]].tolist() == ["L1H1", 1, 1]


def test_xarray_carries_coords_and_units():
    found = map_of(coords={"layer": (4, 8, 12)}).to_xarray()
    assert found.sel(layer=8, head=1).item() == map_of().values[1, 1] and found.attrs["units"] == "logits"


def test_a_saved_map_comes_back_whole_and_equal_maps_make_equal_files(tmp_path):
    found = map_of(coords={"layer": (4, 8, 12)})
    found.save(tmp_path / "one.safetensors")
    map_of(coords={"layer": (4, 8, 12)}).save(tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    back = HeadMap.load(tmp_path / "one.safetensors")
    assert back.described() == found.described()
    for name in ("values", "samples", "scale"):
        assert np.array_equal(getattr(back, name), getattr(found, name))
    bare = HeadMap(values=np.array([[np.nan, 1]]), dims=("layer", "head"), **ABOUT)
    bare.save(tmp_path / "bare.safetensors")
    again = HeadMap.load(tmp_path / "bare.safetensors")
    assert again.samples is None and np.array_equal(again.values, bare.values, equal_nan=True)


@pytest.mark.parametrize("at", [3, 40, -1])
def test_a_damaged_file_is_named(tmp_path, at):
    path = tmp_path / "map.safetensors"
    map_of().save(path)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"map\.safetensors is damaged"):
        HeadMap.load(path)


def test_a_file_of_another_kind_is_refused(tmp_path):
    from safetensors.numpy import save_file

    from headlens.analyses.arrays import save_arrays

    save_file({"values": np.zeros(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="not written by headlens"):
        HeadMap.load(tmp_path / "weights.safetensors")
    save_arrays(tmp_path / "chunk.safetensors", {"values": np.zeros(2)}, {"chunk": "x"})
    with pytest.raises(ValueError, match="holds no HeadMap"):
        HeadMap.load(tmp_path / "chunk.safetensors")
    with pytest.raises(FileNotFoundError):
        HeadMap.load(tmp_path / "missing.safetensors")
