"""The Triton kernels of what keys are given and of two runs' rows, beside twins in float64 and loops over keys."""

import math

import pytest
import torch

from headlens.kernels import reference_stats as twin
from headlens.kernels.seen import Seen
from row_cases import DEVICE, SEEN, TILE, asked, assert_apart, assert_received, case, drawn, lse_of

pytest.importorskip("triton")
from headlens.kernels.head_stats import row_stats
from headlens.kernels.received_attention import received
from headlens.kernels.rows_divergence import divergence

pytestmark = pytest.mark.usefixtures("poisoned")


def shares_by_hand(query, key, sees, scaling, softcap, sink):
    """Of one row: its attention by key, and the logarithm of what softmax divides by."""
    scores = {}
    for at in range(len(key)):
        if sees(at):
            score = scaling * math.fsum(a * b for a, b in zip(query.tolist(), key[at].tolist(), strict=True))
            scores[at] = softcap * math.tanh(score / softcap)
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
