"""Head maps as JSON that any tool can read: the format "head-importance-map/1".

`data/schemas/head-importance-map-1.json` describes every field. The text is strict JSON, one field a line, and the same
map makes the same text. Numbers are the shortest decimals that come back as the same float32; missing is null.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from headlens.analyses.headmap import DIMS, HeadMap

SCHEMA = "head-importance-map/1"
# The largest float32 in its shortest decimal.
_LARGEST = 3.4028235e38


def to_json(headmap: HeadMap) -> str:
    """The map as a document of the format, ending in a newline.

    Scale and clusters go with samples and are left out without them. ValueError where a number is infinite, or where
    coords or provenance hold what JSON cannot say.
    """
    arrays: dict[str, Any] = {"values": as_lists(headmap.values, "values"), "interval": None}
    arrays |= {"samples": None, "scale": None, "clusters": None}
    if headmap.samples is not None and headmap.scale is not None:
        arrays["samples"] = as_lists(headmap.samples, "samples")
        arrays["scale"] = as_lists(headmap.scale, "scale")
        arrays["clusters"] = [*headmap.clusters]
        if len(headmap.samples) > 1:
            interval = headmap.ci()
            bounds = {"low": as_lists(interval.low, "low"), "high": as_lists(interval.high, "high")}
            arrays["interval"] = {"level": interval.level, "method": interval.method, **bounds}
    document = {**headmap.described(), "schema": SCHEMA, "shape": [*headmap.values.shape], **arrays}
    lines = [f"{json.dumps(key)}: {_dumps(key, document[key])}" for key in sorted(document)]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def from_json(text: str) -> HeadMap:
    """The map that a document of the format describes. ValueError names the field that is wrong.

    The interval is not read: a HeadMap works it out from the samples.
    """
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"This is not a JSON document ({error}); expected the format {SCHEMA!r}.") from error
    validate(document)
    shape, samples = document["shape"], document["samples"]
    arrays = {"values": np.array(document["values"], np.float32).reshape(shape)}
    if samples is not None:
        arrays["samples"] = np.array(samples, np.float32).reshape([len(samples), *shape])
        arrays["scale"] = np.array(document["scale"], np.float32)
    about = {key: document[key] for key in ("name", "units", "sign", "dims", "coords", "provenance")}
    return HeadMap.from_described({**about, "clusters": document["clusters"] or ()}, **arrays)


def validate(document: Any) -> None:
    """Check a parsed document against the format. ValueError names the first field that is wrong."""
    try:
        checked = _Document.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        what = first["msg"].removeprefix("Value error, ").rstrip(".")
        place = ".".join(str(part) for part in first["loc"] if part != "[key]")[:60]
        named = f"The field {place!r}" if place else "The document"
        raise ValueError(f"{named} is not of the format {SCHEMA!r}: {what}.") from error
    _check_lengths(checked)
    shape = (*checked.shape,)
    _check_lists("values", checked.values, shape)
    if checked.samples is not None:
        _check_lists("samples", checked.samples, (len(checked.samples), *shape))
    if checked.interval is not None:
        _check_lists("interval.low", checked.interval.low, shape)
        _check_lists("interval.high", checked.interval.high, shape)


def as_lists(array: np.ndarray, field: str) -> Any:
    """A float32 array as nested lists of the shortest decimals that come back as the same float32; NaN as None.

    ValueError, which names the field, where a number is infinite.
    """
    if np.isinf(array).any():
        raise ValueError(f"The {field} of this map hold infinite numbers, which JSON cannot say.")
    flat = np.asarray(array, np.float32).reshape(-1)
    short = flat.astype("U32").astype(np.float64)
    # A decimal is read as a double first. Where that double lies halfway between two float32, as for 7.038531e-26,
    # it is rounded to the wrong one: those numbers are written in full.
    with np.errstate(invalid="ignore"):
        wrong = short.astype(np.float32) != flat
    short[wrong] = flat[wrong]
    plain = short.astype(object)
    plain[np.isnan(flat)] = None
    return plain.reshape(array.shape).tolist()


def _dumps(field: str, value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True, separators=(", ", ": "), allow_nan=False, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"The {field} of this map cannot be written as JSON ({error}); expected plain values: text, finite "
            "numbers, true, false, none, lists and mappings of text to such values."
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} was given")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, which is not JSON: what is missing is null")


def _check_dims(dims: list[str]) -> list[str]:
    if len(set(dims)) < len(dims) or set(dims) - set(DIMS):
        raise ValueError(f"it is {dims}; expected each at most once out of {', '.join(DIMS)}")
    return dims


_Text = Annotated[str, Field(strict=True)]
_Size = Annotated[int, Field(strict=True, ge=0)]
_Label = Annotated[int, Field(strict=True)] | _Text


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Interval(_Strict):
    level: Annotated[float, Field(strict=True, gt=0, lt=1)]
    method: _Text
    low: Any
    high: Any


class _Document(_Strict):
    schema_: Annotated[Literal["head-importance-map/1"], Field(alias="schema")]
    name: _Text
    units: _Text
    sign: _Text
    dims: Annotated[list[_Text], AfterValidator(_check_dims)]
    shape: list[_Size]
    coords: dict[_Text, list[_Label]]
    values: Any
    interval: _Interval | None
    samples: list[Any] | None
    scale: list[Any] | None
    clusters: list[_Text] | None
    provenance: dict[_Text, JsonValue]


def _check_lengths(document: _Document) -> None:
    prompts = [document.samples, document.scale, document.clusters]
    counts = {None if part is None else len(part) for part in prompts}
    if len(counts) > 1:
        raise ValueError(
            "The fields 'samples', 'scale' and 'clusters' do not go together; expected one entry a prompt in each, or "
            "null in all three."
        )
    if document.interval is not None and (document.samples is None or len(document.samples) < 2):
        raise ValueError("The field 'interval' is given without two samples or more; expected null.")
    if len(document.shape) != len(document.dims):
        raise ValueError(f"The field 'shape' is {document.shape}; expected one size for each of {document.dims}.")
    sizes = dict(zip(document.dims, document.shape, strict=True))
    labels = {dim: len(entries) for dim, entries in document.coords.items()}
    if labels != sizes:
        raise ValueError(f"The field 'coords' has {labels} labels; expected {sizes}, as 'dims' and 'shape' say.")
    if document.scale is not None:
        # each metric has its own scale; one number a prompt serves all
        own = document.dims[-1:] == ["metric"] and any(isinstance(part, list) for part in document.scale)
        _check_lists("scale", document.scale, (len(document.scale), *(document.shape[-1:] if own else ())))


def _check_lists(field: str, given: Any, shape: tuple[int, ...]) -> None:
    if shape:
        if not isinstance(given, list) or len(given) != shape[0]:
            had = f"{len(given)} entries" if isinstance(given, list) else repr(given)[:40]
            raise ValueError(f"The field '{field}' has {had} where a list of {shape[0]} entries was expected.")
        for at, part in enumerate(given):
            _check_lists(f"{field}[{at}]", part, shape[1:])
    elif given is not None and not _is_float32(given):
        raise ValueError(f"The field '{field}' is {repr(given)[:40]}; expected a number of float32's range, or null.")


def _is_float32(given: Any) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool) and abs(given) <= _LARGEST
