"""The Triton kernel of row statistics, beside its twin in float64, and planted heads."""

import math
from dataclasses import fields

import pytest
import torch

from headlens.kernels import operations
from headlens.kernels import reference_stats as twin
from headlens.kernels.dispatch import forced
from headlens.kernels.row_stats import NAMES
from headlens.kernels.seen import Seen
from row_cases import (
    DEVICE,
    SEEN,
    TILE,
    asked,
    assert_apart,
    assert_as_the_twin,
    assert_received,
    case,
    drawn,
    whole,
)

pytest.importorskip("triton")
from headlens.kernels import head_stats, received_attention, rows_divergence
from headlens.kernels.head_stats import row_stats
from headlens.kernels.received_attention import received
from headlens.kernels.rows_divergence import divergence

pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.mark.parametrize("seen", SEEN)
def test_rows_as_the_twin(seen):
    assert_as_the_twin(*case(), SEEN[seen], 0.3, **asked())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [32, 48, 80, 128])
def test_dtypes_and_head_dims(dtype, width):
    seen, more = Seen(past=16), asked(batch=1)
    query, key = case(batch=1, heads=2, kv_heads=1, width=width, dtype=dtype)
    other_query, other_key = case(batch=1, heads=2, kv_heads=1, width=width, dtype=dtype, seed=5)
    scaling = 2 * width**-0.5
    assert_as_the_twin(query, key, seen, scaling, **more)
    assert_received(query, key, seen, scaling)
    assert_apart(query, key, other_query, other_key, seen, scaling)


@pytest.mark.parametrize(("softcap", "sink"), [(2.0, None), (2.0, 0.0), (None, 0.0), (None, 400.0), (None, -400.0)])
def test_soft_caps_and_learned_sinks(softcap, sink):
    sinks = None if sink is None else drawn(4, seed=2) + sink
    assert_as_the_twin(*case(), SEEN["window, ragged"], 1.0, softcap=softcap, sinks=sinks, **asked())


def test_large_scores():
    assert_as_the_twin(*(each.sign() for each in case()), SEEN["causal"], 20.0, **asked())


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_statistic_alone(name):
    given, more = (*case(batch=1), Seen(past=16), 0.3), asked(batch=1)
    alone = {**more, "what": {name}, "groups": None, "n_groups": 0}
    got = assert_as_the_twin(*given, **alone)
    assert sum(getattr(got, field.name) is not None for field in fields(got)) <= 3


def test_the_log_sum_exp_alone():
    assert_as_the_twin(*case(batch=1), Seen(past=16), 0.3)


@pytest.mark.parametrize("shape", [(1, 4, 37), (2, 1, 21, 37), (1, 4, 1, 37), (1, 1, 21, 37)])
def test_groups_of_heads_and_rows(shape):
    more = asked(groups=whole(256, *shape, seed=4, dtype=torch.uint8), n_groups=8)
    assert_as_the_twin(*case(), SEEN["window"], 0.3, **{**more, "what": set()})


@pytest.mark.parametrize("tile", [None, (16, 32), (32, 16)])
def test_tiles_do_not_matter(tile):
    query, key = case(batch=1, heads=2, kv_heads=1, rows=40, keys=70)
    other_query, other_key = case(batch=1, heads=2, kv_heads=1, rows=40, keys=70, seed=5)
    seen = Seen(past=30)
    assert_as_the_twin(query, key, seen, 0.3, tile=tile, **asked(1, 40, 70, 30))
    assert_received(query, key, seen, 0.3, tile=tile)
    assert_apart(query, key, other_query, other_key, seen, 0.3, tile=tile)


def test_one_row_of_a_cached_step():
    """Its own key is the first of a tile, the key before it the last of another."""
    query, key = case(rows=1, keys=33)
    seen = Seen(past=32, first=torch.tensor([0, 11], device=DEVICE))
    for tile in (None, TILE):
        assert_as_the_twin(query, key, seen, 0.3, tile=tile, **asked(rows=1, keys=33, in_front=32))
        assert_received(query, key, seen, 0.3, tile=tile)
        assert_apart(query, key, *case(rows=1, keys=33, seed=5), seen, 0.3, tile=tile)


def test_inputs_as_transformers_hands_them_over():
    """Heads behind positions, keys whose last axis is not the densest, and tokens, masks and groups as they lie."""
    query, key = (each.transpose(1, 2).contiguous().transpose(1, 2) for each in case())
    key = key.transpose(2, 3).contiguous().transpose(2, 3)
    more = asked(groups=whole(8, 37, 2, 1, seed=3, dtype=torch.uint8).permute(1, 2, 0))
    more["row_tokens"] = more["row_tokens"].t().contiguous().t()
    more["key_tokens"] = more["key_tokens"][:1].expand(2, -1)
    seen = Seen(past=16, mask=(drawn(37, 21, seed=9) > -1).t()[None, None])
    assert_as_the_twin(query, key, seen, 0.3, **more)
    counted = (drawn(21, 2) > 0).t()
    assert_received(query, key, seen, 0.3, counted=counted)


def one_hot_head(rows, looks_at, width=32):
    """A query and a key of one head whose row i attends to key looks_at(i), and to nothing else by any amount seen."""
    places = torch.eye(rows, width, device=DEVICE)
    return 300 * places[[looks_at(row) for row in range(rows)]][None, None], places[None, None]


def test_rows_that_share_no_key():
    one, other = one_hot_head(20, lambda row: 0), one_hot_head(20, lambda row: max(row, 1))
    seen = Seen(causal=False)
    lses = [row_stats(*run, seen, 1.0, tile=TILE).lse for run in (one, other)]
    apart = divergence(*one, lses[0], *other, lses[1], seen, 1.0, tile=TILE)
    torch.testing.assert_close(apart, torch.full_like(apart, math.log(2)), rtol=0, atol=1e-6)


def test_a_head_of_previous_tokens():
    query, key = one_hot_head(21, lambda row: max(row - 1, 0))
    got = row_stats(query, key, Seen(), 1.0, what=NAMES - {"duplicate", "induction"}, tile=TILE)
    assert (got.previous[..., 1:] == 1).all() and (got.previous[..., 0] == 0).all()
    assert (got.own[..., 1:] < 1e-30).all() and (got.own[..., 0] == 1).all()
    assert (got.distance[..., 1:] == 1).all() and (got.entropy.abs() < 1e-30).all()
    assert got.top_key[0, 0].tolist() == [0, *range(20)] and (got.top_mass == 1).all()
    assert (got.first[..., :2] == 1).all() and (got.first[..., 2:] < 1e-30).all()


def test_a_head_of_induction():
    """Twice the same ten tokens: rows of the second half attend to what came after their first copy."""
    query, key = one_hot_head(20, lambda row: max(row - 9, 0))
    tokens = torch.arange(10, device=DEVICE).repeat(2)[None]
    what = {"duplicate", "induction"}
    got = row_stats(query, key, Seen(), 1.0, what=what, row_tokens=tokens, key_tokens=tokens, tile=TILE)
    assert (got.induction[..., 10:] == 1).all() and (got.duplicate[..., 10:] < 1e-30).all()
    assert got.has_induction[0, 0].tolist() == got.has_duplicate[0, 0].tolist() == [False] * 10 + [True] * 10
    assert (got.induction[..., :10] == 0).all() and (got.duplicate[..., :10] == 0).all()


def test_uniform_rows():
    key = case(batch=1)[1]
    query = torch.zeros(1, 4, 21, 48, device=DEVICE)
    got = row_stats(query, key, Seen(past=16), 0.3, what={"entropy", "top"}, tile=TILE)
    seen = torch.arange(17, 38, device=DEVICE).float()
    for name in ("entropy", "lse"):
        torch.testing.assert_close(getattr(got, name), seen.log().expand(1, 4, 21), rtol=0, atol=2e-6)
    torch.testing.assert_close(got.top_mass, (1 / seen).expand(1, 4, 21))
    # of several, the first
    assert (got.top_key == 0).all()


@pytest.mark.parametrize("sinks", [None, drawn(2, seed=2), drawn(2, seed=2) - 200, drawn(2, seed=2) + 200])
def test_rows_that_see_nothing_have_nothing(sinks):
    query, key = case(heads=2)
    seen = Seen(past=16, first=torch.tensor([0, 28], device=DEVICE))
    got = assert_as_the_twin(query, key, seen, 0.3, sinks=sinks, **asked())
    left = torch.full((2,), -torch.inf, device=DEVICE) if sinks is None else sinks
    for field in fields(got):
        of_empty = getattr(got, field.name)[1, :, :12]
        assert (of_empty == (left[:, None] if field.name == "lse" else 0)).all(), field.name
        assert not getattr(got, field.name).isnan().any()
    counted = torch.ones(1, 21, dtype=torch.bool, device=DEVICE)
    given = received(query, key, seen, 0.3, got.lse, counted, tile=TILE)
    assert (given[1, :, :28] == 0).all() and given.isfinite().all()
    apart = divergence(query, key, got.lse, key[:, :, :21], key, got.lse, seen, 0.3, tile=TILE)
    assert (apart[1, :, :12] == 0).all() and apart.isfinite().all()


def test_what_is_refused():
    given = (*case(batch=1), Seen(past=16), 0.3)
    groups = torch.zeros(1, 1, 37, dtype=torch.uint8, device=DEVICE)
    for function in (row_stats, twin.row_stats):
        with pytest.raises(ValueError, match="'entropie' is no statistic of attention rows; expected some of"):
            function(*given, what={"entropie"})
        with pytest.raises(ValueError, match="'induction' is about copies of tokens; give row_tokens and key_tokens"):
            function(*given, what={"induction"})
        with pytest.raises(ValueError, match="n_groups=9 was given with groups; expected 1 to 8"):
            function(*given, groups=groups, n_groups=9)
        with pytest.raises(ValueError, match="n_groups=2 was given without groups"):
            function(*given, n_groups=2)


def test_the_choice_is_between_kernel_and_twin(monkeypatch):
    ran = []
    for module, name in ((head_stats, "row_stats"), (received_attention, "received"), (rows_divergence, "divergence")):
        monkeypatch.setattr(module, name, noting(getattr(module, name), ran, "kernel"))
        monkeypatch.setattr(twin, name, noting(getattr(twin, name), ran, "twin"))
    query, key = case(batch=1)
    counted = torch.ones(1, 21, dtype=torch.bool, device=DEVICE)
    results = {}
    for form in ("kernel", "twin"):
        with forced(form):
            lse = operations.row_stats(query, key, Seen(past=16), 0.3, what={"self"}, softcap=2.0).lse
            given = operations.received(query, key, Seen(past=16), 0.3, lse, counted, softcap=2.0)
            other = (query, key.roll(1, 2), lse)
            apart = operations.divergence(query, key, lse, *other, Seen(past=16), 0.3, softcap=2.0)
        results[form] = lse, given, apart
    assert ran == ["kernel"] * 3 + ["twin"] * 3
    for one, other in zip(*results.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def noting(function, ran, form):
    def noted(*args, **kwargs):
        ran.append(form)
        return function(*args, **kwargs)

    return noted
