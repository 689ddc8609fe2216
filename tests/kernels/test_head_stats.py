"""The Triton kernels of head statistics, beside their twins in float64 and beside loops over keys."""

import math
from dataclasses import fields

import pytest
import torch

from headlens.kernels import operations
from headlens.kernels import reference_stats as twin
from headlens.kernels.dispatch import forced
from headlens.kernels.row_stats import NAMES
from headlens.kernels.seen import Seen

pytest.importorskip("triton")
from headlens.kernels import head_stats, received_attention, rows_divergence
from headlens.kernels.head_stats import row_stats
from headlens.kernels.received_attention import received
from headlens.kernels.rows_divergence import divergence

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# several tiles along rows and keys at small sizes
TILE = (16, 16)


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch):
    """New memory holds what no result may show."""
    real = torch.empty

    def empty(*shape, dtype=None, **more):
        new = real(*shape, dtype=dtype, **more)
        if new.dtype == torch.bool:
            return new.fill_(True)
        return new.fill_(torch.nan if new.is_floating_point() else -7)

    monkeypatch.setattr(torch, "empty", empty)


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE, dtype)


def whole(most, *shape, seed=0, dtype=torch.int64):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(most, shape, generator=draw, dtype=dtype).to(DEVICE)


def case(batch=2, heads=4, kv_heads=2, rows=21, keys=37, width=48, dtype=torch.float32, seed=1):
    """A query and a key."""
    query = drawn(batch, heads, rows, width, seed=seed, dtype=dtype)
    return query, drawn(batch, kv_heads, keys, width, seed=seed + 100, dtype=dtype)


def asked(batch=2, rows=21, keys=37, in_front=16, groups=None, n_groups=3):
    """Everything there is to ask for; rows are the tokens from `in_front` on."""
    tokens = whole(5, batch, in_front + rows, seed=2)
    groups = whole(2**n_groups, batch, 1, keys, seed=3, dtype=torch.uint8) if groups is None else groups
    return {
        "what": NAMES,
        "row_tokens": tokens[:, in_front:],
        "key_tokens": tokens[:, :keys],
        "groups": groups,
        "n_groups": n_groups,
    }


SEEN = {
    "causal": Seen(past=16),
    "all": Seen(causal=False, past=8),
    "window": Seen(past=16, window=9),
    "ragged in front": Seen(past=16, first=torch.tensor([0, 19], device=DEVICE)),
    "ragged behind": Seen(causal=False, past=4, end=torch.tensor([37, 25], device=DEVICE)),
    "window, ragged": Seen(past=16, window=18, first=torch.tensor([0, 20], device=DEVICE)),
    "mask": Seen(past=16, mask=drawn(2, 1, 21, 37, seed=9) > -1),
    "mask of heads, one row empty": Seen(causal=False, mask=drawn(1, 4, 1, 37, seed=9) > 1.5),
}


def assert_close(got, expected):
    """Every number of rows, against float64."""
    for field in fields(got):
        one, other = getattr(got, field.name), getattr(expected, field.name)
        assert (one is None) == (other is None), field.name
        if one is None:
            continue
        if other.is_floating_point():
            assert one.dtype == torch.float32
            accuracy = {"lse": 1e-5, "entropy": 1e-5, "distance": 3e-5}.get(field.name, 3e-6)
            assert torch.allclose(one.double(), other, rtol=0, atol=accuracy), field.name
        else:
            assert torch.equal(one, other), field.name


def assert_as_the_twin(query, key, seen, scaling, tile=TILE, **more):
    got = row_stats(query, key, seen, scaling, tile=tile, **more)
    assert_close(got, twin.row_stats(query.double(), key.double(), seen, scaling, **more))
    return got


def lse_of(query, key, seen, scaling, **more):
    return twin.row_stats(query.double(), key.double(), seen, scaling, **more).lse


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


def shares_by_hand(query, key, sees, scaling, softcap, sink):
    """Of one row: its attention by key, and the logarithm of what softmax divides by."""
    scores = {}
    for at in range(len(key)):
        if sees(at):
            score = scaling * math.fsum(a * b for a, b in zip(query.tolist(), key[at].tolist(), strict=True))
            scores[at] = softcap * math.tanh(score / softcap)
    if not scores:
        return {}, -math.inf
    total = math.fsum(math.exp(score) for score in [*scores.values(), sink])
    return {at: math.exp(score) / total for at, score in scores.items()}, math.log(total)


def patterns_by_hand(query, key, seen, scaling, softcap, sinks):
    for batch in range(query.shape[0]):
        for head in range(query.shape[1]):
            for row in range(query.shape[2]):
                own = seen.past + row

                def sees(at, batch=batch, row=row, own=own):
                    inside = seen.first[batch] <= at < seen.end[batch] and own - seen.window < at <= own
                    return bool(inside and seen.mask[batch, 0, row, at])

                yield (
                    (batch, head, row),
                    own,
                    *shares_by_hand(
                        query[batch, head, row], key[batch, head // 2], sees, scaling, softcap, float(sinks[head])
                    ),
                )


EVERYTHING = Seen(
    past=16,
    window=17,
    first=torch.tensor([3, 17], device=DEVICE),
    end=torch.tensor([34, 37], device=DEVICE),
    mask=drawn(2, 1, 21, 37, seed=9) > -1,
)


def test_rows_key_by_key():
    query, key = case(width=32)
    sinks, more = drawn(4, seed=2), asked()
    got = row_stats(query, key, EVERYTHING, 0.4, softcap=3.0, sinks=sinks, tile=TILE, **more)
    tokens = more["key_tokens"].tolist()
    for (batch, head, row), own, shares, log_total in patterns_by_hand(query, key, EVERYTHING, 0.4, 3.0, sinks):
        token = int(more["row_tokens"][batch, row])
        copies = [at for at in shares if at < own and tokens[batch][at] == token]
        behind = [at for at in shares if at > 0 and tokens[batch][at - 1] == token]
        top = max(shares, key=shares.get, default=0)
        everything = sum(shares.values())
        expected = {
            "lse": log_total,
            "entropy": -sum(share * math.log(share) for share in shares.values()),
            "first": shares.get(int(EVERYTHING.first[batch]), 0),
            "previous": shares.get(own - 1, 0),
            "own": shares.get(own, 0),
            "distance": sum((own - at) * share for at, share in shares.items()) / (everything or 1),
            "duplicate": sum(shares[at] for at in copies),
            "has_duplicate": bool(copies),
            "induction": sum(shares[at] for at in behind),
            "has_induction": bool(behind),
            "top_key": top,
            "top_mass": shares.get(top, 0),
        }
        for name, value in expected.items():
            found = float(getattr(got, name)[batch, head, row])
            assert math.isclose(found, value, abs_tol=2e-5) or found == value, (name, batch, head, row)
        for group in range(3):
            inside = sum(share for at, share in shares.items() if more["groups"][batch, 0, at] >> group & 1)
            assert math.isclose(float(got.masses[batch, head, row, group]), inside, abs_tol=3e-6)


def test_keys_and_two_runs_key_by_key():
    query, key = case(width=32)
    others, sinks = case(width=32, seed=5), drawn(4, seed=2)
    counted = drawn(1, 21, seed=8) > 0
    runs = [
        {where: (shares, lse) for where, _, shares, lse in patterns_by_hand(*run, EVERYTHING, 0.4, 3.0, sinks)}
        for run in ((query, key), others)
    ]
    lse, other_lse = torch.empty(2, 2, 4, 21, device=DEVICE)
    apart = torch.empty(2, 4, 21, dtype=torch.float64)
    given = torch.zeros(2, 4, 37, dtype=torch.float64)
    for (batch, head, row), (shares, log_total) in runs[0].items():
        other, other_total = runs[1][batch, head, row]
        lse[batch, head, row], other_lse[batch, head, row] = log_total, other_total
        means = {at: (shares[at] + other[at]) / 2 for at in shares}
        apart[batch, head, row] = 0.5 * sum(
            each[at] * math.log(each[at] / mean) for at, mean in means.items() for each in (shares, other)
        )
        for at, share in shares.items():
            given[batch, head, at] += share * bool(counted[0, row])
    got = received(query, key, EVERYTHING, 0.4, lse, counted, softcap=3.0, tile=TILE)
    torch.testing.assert_close(got.double().cpu(), given, rtol=0, atol=1e-5)
    got = divergence(query, key, lse, *others, other_lse, EVERYTHING, 0.4, softcap=3.0, tile=TILE)
    torch.testing.assert_close(got.double().cpu(), apart, rtol=0, atol=3e-6)


def assert_received(query, key, seen, scaling, counted=None, tile=TILE, softcap=None, sinks=None):
    counted = drawn(len(query), query.shape[2], seed=8) > -1 if counted is None else counted
    lse = lse_of(query, key, seen, scaling, softcap=softcap, sinks=sinks)
    got = received(query, key, seen, scaling, lse.float(), counted, softcap=softcap, tile=tile)
    expected = twin.received(query.double(), key.double(), seen, scaling, lse, counted, softcap=softcap)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("seen", SEEN)
def test_keys_as_the_twin(seen):
    assert_received(*case(), SEEN[seen], 0.3, softcap=4.0, sinks=drawn(4, seed=2))


def test_keys_are_given_what_rows_have():
    query, key = case()
    counted = torch.zeros(1, 21, dtype=torch.bool, device=DEVICE)
    lse = row_stats(query, key, Seen(past=16), 0.3, tile=TILE).lse
    assert (received(query, key, Seen(past=16), 0.3, lse, counted, tile=TILE) == 0).all()
    counted[:, 4:11] = True
    given = received(query, key, Seen(past=16), 0.3, lse, counted, tile=TILE)
    torch.testing.assert_close(given.sum(-1), torch.full_like(given[..., 0], 7.0), rtol=0, atol=1e-5)
    assert (given[..., 27:] == 0).all()


def assert_apart(query, key, other_query, other_key, seen, scaling, tile=TILE, softcap=None, sinks=None):
    lse = lse_of(query, key, seen, scaling, softcap=softcap, sinks=sinks)
    other_lse = lse_of(other_query, other_key, seen, scaling, softcap=softcap, sinks=sinks)
    given = (query, key, lse.float(), other_query, other_key, other_lse.float(), seen, scaling)
    got = divergence(*given, softcap=softcap, tile=tile)
    exact = (query.double(), key.double(), lse, other_query.double(), other_key.double(), other_lse, seen, scaling)
    torch.testing.assert_close(got.double(), twin.divergence(*exact, softcap=softcap), rtol=0, atol=3e-6)


@pytest.mark.parametrize("seen", SEEN)
def test_two_runs_as_the_twin(seen):
    assert_apart(*case(), *case(seed=5), SEEN[seen], 0.3, softcap=4.0, sinks=drawn(4, seed=2))


def test_equal_rows_are_not_apart_at_all():
    query, key = case()
    lse = row_stats(query, key, SEEN["causal"], 0.3, tile=TILE).lse
    assert (divergence(query, key, lse, query, key, lse, SEEN["causal"], 0.3, tile=TILE) == 0).all()


@pytest.mark.parametrize(("noise", "digits"), [(1e-3, 2e-2), (0.1, 1e-4)])
def test_nearly_equal_rows_keep_their_digits(noise, digits):
    query, key = case(batch=1)
    other = query + noise * drawn(*query.shape, seed=7)
    lse, other_lse = (lse_of(each, key, Seen(past=16), 0.3) for each in (query, other))
    got = divergence(query, key, lse.float(), other, key, other_lse.float(), Seen(past=16), 0.3, tile=TILE)
    given = (query, key, lse, other, key, other_lse)
    expected = twin.divergence(*(each.double() for each in given), Seen(past=16), 0.3)
    assert expected.max() < 10 * noise**2
    torch.testing.assert_close(got.double(), expected, rtol=digits, atol=1e-13)


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


@pytest.mark.parametrize("sinks", [None, drawn(2, seed=2)])
def test_rows_that_see_nothing_have_nothing(sinks):
    query, key = case(heads=2)
    seen = Seen(past=16, first=torch.tensor([0, 28], device=DEVICE))
    got = row_stats(query, key, seen, 0.3, sinks=sinks, tile=TILE, **asked())
    for field in fields(got):
        of_empty = getattr(got, field.name)[1, :, :12]
        assert (of_empty == (-torch.inf if field.name == "lse" else 0)).all(), field.name
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
