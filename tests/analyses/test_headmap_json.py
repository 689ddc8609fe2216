"""Head maps as JSON: they come back bit for bit, and two independent readers agree on what the format is."""

import json
from dataclasses import replace
from importlib.resources import files

import jsonschema
import numpy as np
import pytest

from headlens.analyses.headmap import HeadMap
from headlens.analyses.headmap_json import as_lists, from_json, to_json, validate

# A decimal of 7 digits names this float32, and the double nearest to that decimal rounds to its neighbour.
ROUNDED_TWICE = np.uint32(0x15AE43FD).view(np.float32)
SCHEMA = json.loads(files("headlens.data").joinpath("schemas", "head-importance-map-1.json").read_text())


def agrees(document):
    """Whether the published schema, read by an independent library, takes the document."""
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(document)


@pytest.fixture
def headmap():
    """A map of 3 layers, 5 heads and 2 positions from 7 prompts of 3 templates, with a cell that is missing."""
    rng = np.random.default_rng(3)
    samples = rng.normal(size=(7, 3, 5, 2)).astype(np.float32)
    samples[:, 1, 4, 0] = np.nan
    samples[2, 0, 0, 1] = np.nan
    samples[0, 2, 2] = ROUNDED_TWICE, -0.0
    return HeadMap.from_samples(
        samples,
        rng.normal(3, 0.5, 7).astype(np.float32),
        dims=("layer", "head", "pos"),
        name="patching effect",
        units="fraction",
        sign="Positive means: restores.",
        coords={"pos": ("S2", 9)},
        clusters=tuple("abcabca"),
        provenance={"model": {"name": "tiny Ω"}, "seed": 0, "words": ("a", "b"), "none": None},
    )


@pytest.fixture
def document(headmap):
    return json.loads(to_json(headmap))


def same_bits(left, right):
    return left.dtype == right.dtype and np.array_equal(left.view(np.uint32), right.view(np.uint32))


def plain(headmap, **fields):
    return replace(headmap, samples=None, scale=None, clusters=(), **fields)


def one_cell(headmap):
    return HeadMap.from_samples(headmap.samples[:, 1, 2, 0], headmap.scale, dims=(), name="n", units="u", sign="s")


def test_a_map_comes_back_bit_for_bit(headmap):
    back = from_json(to_json(headmap))
    assert same_bits(back.values, headmap.values)
    assert same_bits(back.samples, headmap.samples)
    assert same_bits(back.scale, headmap.scale)
    assert back.described() == {**headmap.described(), "provenance": {**headmap.provenance, "words": ["a", "b"]}}
    assert to_json(back) == to_json(headmap)


@pytest.mark.parametrize(
    "part",
    [
        lambda headmap: headmap.sel(layer=1),
        lambda headmap: one_cell(headmap),
        lambda headmap: plain(headmap),
        lambda headmap: plain(one_cell(headmap)),
        lambda headmap: replace(headmap.sel(pos=9), samples=headmap.samples[:1, ..., 1], scale=None, clusters=()),
        lambda headmap: replace(headmap, samples=headmap.samples[:0], scale=None, clusters=()),
        lambda headmap: plain(headmap, values=np.zeros((0, 5, 2)), coords={}),
        lambda headmap: plain(headmap, values=np.full((3, 5, 2), np.nan)),
    ],
    ids=["a layer", "a cell", "no samples", "a cell, no samples", "one prompt", "no prompts", "empty", "all missing"],
)
def test_awkward_maps_come_back(headmap, part):
    made = part(headmap)
    text = to_json(made)
    back = from_json(text)
    assert agrees(json.loads(text))
    assert back.dims == made.dims and back.values.shape == made.values.shape
    assert np.array_equal(back.values, made.values, equal_nan=True)
    assert getattr(back.samples, "shape", None) == getattr(made.samples, "shape", None)


def test_the_text_is_strict_sorted_and_the_same_each_time(headmap):
    text = to_json(headmap)
    assert text == to_json(headmap)
    assert "NaN" not in text and "Infinity" not in text and text.isascii() and text.endswith("}\n")
    assert list(json.loads(text)) == sorted(json.loads(text))


@pytest.mark.parametrize("number", [0.1, 1 / 3, 1e-45, 3.4028235e38, -0.0, 16777216.0, float(ROUNDED_TWICE)])
def test_every_number_comes_back(number):
    exact = np.array([number], np.float32)
    assert same_bits(np.array(json.loads(json.dumps(as_lists(exact, "values"))), np.float32), exact)


def test_random_bits_come_back():
    bits = np.random.default_rng(0).integers(0, 2**32, 20000, dtype=np.uint32).view(np.float32)
    bits = bits[np.isfinite(bits)]
    assert same_bits(np.array(as_lists(bits, "values"), np.float32), bits)


def test_numbers_are_short():
    assert json.dumps(as_lists(np.array([0.1, 0.44, np.nan], np.float32), "values")) == "[0.1, 0.44, null]"


def test_the_published_schema_is_one_and_takes_what_we_write(document):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(document, SCHEMA, jsonschema.Draft202012Validator)


def test_every_field_of_the_published_schema_is_described():
    interval = SCHEMA["$defs"]["interval"]["properties"]
    for field in [*SCHEMA["properties"].values(), *SCHEMA["$defs"].values(), *interval.values()]:
        assert len(field["description"]) > 20
    assert set(SCHEMA["required"]) == set(SCHEMA["properties"])


def test_the_interval_is_the_one_of_the_map(headmap, document):
    interval = headmap.ci()
    assert document["interval"]["method"] == interval.method and document["interval"]["level"] == 0.95
    assert np.array_equal(np.array(document["interval"]["low"], np.float32), interval.low, equal_nan=True)
    assert document["interval"]["high"][1][4][0] is None


def planted(document, field, value):
    """Put a value at a dotted place, or drop the field where the value is `...`."""
    *path, last = [int(part) if part.isdigit() else part for part in field.split(".")]
    for part in path:
        document = document[part]
    if value is ...:
        del document[last]
    else:
        document[last] = value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", "head-importance-map/2"),
        ("values", ...),
        ("units", ...),
        ("name", 3),
        ("extra", 1),
        ("dims.0", "token"),
        ("dims.0", "head"),
        ("shape.0", -1),
        ("shape.0", "3"),
        ("coords.layer.0", None),
        ("coords.layer.0", 0.5),
        ("coords.token", []),
        ("values.0.0.0", "0.1"),
        ("values.0.0.0", True),
        ("values.0.0.0", 3.5e38),
        ("samples", None),
        ("clusters", None),
        ("scale", None),
        ("scale.1", "1"),
        ("clusters.1", 1),
        ("interval.level", 95),
        ("interval.method", ...),
        ("interval.other", 1),
        ("interval.low", "no"),
        ("provenance", []),
    ],
)
def test_both_readers_refuse(document, field, value):
    planted(document, field, value)
    with pytest.raises(ValueError, match=rf"field '{field.split('.')[0]}|'samples', 'scale' and 'clusters'"):
        validate(document)
    assert not agrees(document)


def test_each_metric_has_a_scale(headmap):
    scale = np.stack([headmap.scale, 10 * headmap.scale], 1)
    made = replace(headmap, dims=("layer", "head", "metric"), coords={"metric": ("prob", "kl")}, scale=scale)
    text = to_json(made)
    document = json.loads(text)
    back = from_json(text)
    assert agrees(document) and same_bits(back.scale, made.scale)
    assert back.dims == made.dims and back.coords == made.coords
    assert np.array_equal(back.ci().low, made.ci().low, equal_nan=True)
    # one number a prompt, as documents without several metrics have it, serves all
    document["scale"] = [row[0] for row in document["scale"]]
    assert agrees(document)
    assert np.array_equal(from_json(json.dumps(document)).scale, np.stack([headmap.scale] * 2, 1))
    for wrong in ([1, [2, 3]], [[1]], [[1, 2], [3]], [["1", 2]]):
        with pytest.raises(ValueError, match=r"'scale\[|'scale' has|one entry a prompt"):
            validate({**document, "scale": (wrong + [[1, 2]] * 7)[:7]})


def test_only_metrics_have_a_scale_each(document):
    document["scale"] = [[1, 2]] * 7
    with pytest.raises(ValueError, match=r"'scale\[0\]' is \[1, 2\]; expected a number"):
        validate(document)


# what JSON Schema has no words for
@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("values.1", [[0, 0]], r"'values\[1\]' has 1 entries where a list of 5"),
        ("values.1.2", 0, r"'values\[1\]\[2\]' has 0 where a list of 2"),
        ("values.1.2.0", [1], r"'values\[1\]\[2\]\[0\]' is \[1\]; expected a number"),
        ("samples.3", [], r"'samples\[3\]' has 0 entries"),
        ("interval.high", [], "'interval.high' has 0 entries"),
        ("scale", [1], "one entry a prompt"),
        ("shape", [3, 5], "'shape' is"),
        ("coords.layer", [1], "'coords' has"),
        ("coords.layer", ..., "'coords' has"),
        ("values.0.0.0", float("inf"), "expected a number"),
        ("provenance.model", float("nan"), "finite"),
    ],
)
def test_our_reader_refuses_wrong_shapes(document, field, value, says):
    planted(document, field, value)
    with pytest.raises(ValueError, match=says):
        validate(document)


def test_an_interval_needs_two_samples(document):
    for field in ("samples", "scale", "clusters"):
        document[field] = document[field][:1]
    with pytest.raises(ValueError, match="'interval' is given without two samples"):
        validate(document)
    assert not agrees(document)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a JSON document"),
        ("[1, 2]", "The document is not of the format"),
        ("null", "The document is not of the format"),
        ('{"values": NaN}', "missing is null"),
        ("[" * 100_000, "not a JSON document"),
    ],
    ids=["empty", "a list", "null", "NaN", "deep"],
)
def test_other_texts_are_refused(text, says):
    with pytest.raises(ValueError, match=says):
        from_json(text)


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}, {1: "a", "b": 2}])
def test_what_json_cannot_say_is_refused(headmap, value):
    with pytest.raises(ValueError, match="The provenance of this map cannot be written"):
        to_json(replace(headmap, provenance={"run": value}))


def test_numpy_scalars_are_plain_numbers_in_json(headmap):
    text = to_json(replace(headmap, provenance={"seed": np.int64(3), "rate": np.float32(0.5)}))
    assert json.loads(text)["provenance"] == {"rate": 0.5, "seed": 3}


def test_infinite_numbers_are_refused(headmap):
    with pytest.raises(ValueError, match="The values of this map hold infinite"):
        to_json(plain(headmap, values=np.full((3, 5, 2), np.inf)))
