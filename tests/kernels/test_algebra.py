"""The recalibration algebra on random rows, against sums written out key by key in numpy."""

import numpy as np
import pytest
import torch

from headlens.kernels.algebra import LEAST, group_masses, scaled, tempered, transferred, weighted
from headlens.kernels.reference import attention_pattern

SHAPE = (2, 3, 5, 7)  # batch head row key
HIDDEN = 0.25
MULTIPLIERS = [1.0, 0.3, 2.5, 0.0]


def drawn(seed=0, dtype=torch.float32):
    """Scores with some keys hidden, none of a whole row, and the group of each key of each row, 0 to 3."""
    draw = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(SHAPE, generator=draw, dtype=dtype)
    hidden = torch.rand(SHAPE, generator=draw) < HIDDEN
    hidden[..., 0] = False
    groups = torch.randint(4, SHAPE, generator=draw, dtype=torch.uint8)
    # a key that may not be cut
    groups[..., 0] = 0
    return scores.masked_fill(hidden, -torch.inf), groups


def rows_of(*tensors):
    """Each row by itself, as float64 numpy vectors."""
    for place in np.ndindex(*SHAPE[:3]):
        yield place, *(np.asarray(tensor.expand(SHAPE)[place], dtype=np.float64) for tensor in tensors)


def softmax(scores):
    exponentials = [np.exp(score) for score in scores]
    return np.array([value / sum(exponentials) for value in exponentials])


def assert_rows(got, expected, atol=1e-6):
    """`expected(place)` is a vector for every row of `got` [batch, head, row, key]."""
    for place in np.ndindex(*SHAPE[:3]):
        np.testing.assert_allclose(got[place].double().numpy(), expected[place], rtol=0, atol=atol)


def test_neutral_settings_are_bit_for_bit_the_identity():
    scores, groups = drawn()
    pattern = attention_pattern(scores)
    assert torch.equal(tempered(scores, torch.ones(5)), scores)
    assert torch.equal(weighted(scores, groups, torch.ones(4)), scores)
    assert torch.equal(scaled(pattern, groups, torch.ones(4)), pattern)
    after, idle = transferred(pattern, groups == 1, groups == 2, 1.0)
    assert torch.equal(after, pattern) and not idle.any()


def test_renormalised_multipliers_by_hand():
    scores, groups = drawn()
    got = attention_pattern(weighted(scores, groups, torch.tensor(MULTIPLIERS)))
    expected = {}
    for place, row, own in rows_of(scores, groups):
        before = softmax(row)
        total = sum(MULTIPLIERS[int(group)] * share for group, share in zip(own, before, strict=True))
        expected[place] = [MULTIPLIERS[int(group)] * share / total for group, share in zip(own, before, strict=True)]
    assert_rows(got, expected)
    torch.testing.assert_close(got.sum(-1), torch.ones(SHAPE[:3]), rtol=0, atol=1e-5)
    assert (got - attention_pattern(scores)).abs().max() > 0.1


def test_a_multiplier_is_its_logarithm_as_a_bias():
    scores, groups = drawn()
    biased = scores.clone()
    for group, multiplier in enumerate(MULTIPLIERS):
        biased[groups == group] += -torch.inf if multiplier == 0 else float(np.log(multiplier))
    got = attention_pattern(weighted(scores, groups, torch.tensor(MULTIPLIERS)))
    torch.testing.assert_close(got, attention_pattern(biased), rtol=0, atol=1e-6)


def test_multipliers_and_temperatures_compose_by_product_in_any_order():
    scores, groups = drawn()
    one, other = torch.tensor(MULTIPLIERS), torch.tensor([0.7, 4.0, 0.2, 1.5])
    product = attention_pattern(weighted(scores, groups, one * other))
    for first, second in ((one, other), (other, one)):
        twice = weighted(weighted(scores, groups, first), groups, second)
        torch.testing.assert_close(attention_pattern(twice), product, rtol=0, atol=1e-6)
        raw = scaled(scaled(product, groups, first), groups, second)
        torch.testing.assert_close(raw, scaled(product, groups, one * other), rtol=0, atol=1e-6)
    taus = torch.tensor([0.5, 1.5, 2.0, 0.0, 1.0])
    torch.testing.assert_close(tempered(tempered(scores, taus), taus), tempered(scores, taus**2))


def test_raw_rows_sum_to_their_masses_times_kappa():
    scores, groups = drawn()
    pattern = attention_pattern(scores)
    masses = group_masses(pattern, groups, 4)
    got = scaled(pattern, groups, torch.tensor(MULTIPLIERS))
    expected = {}
    for place, row, own in rows_of(pattern, groups):
        by_group = [sum(row[own == group]) for group in range(4)]
        np.testing.assert_allclose(masses[place], by_group, rtol=0, atol=1e-6)
        total = sum(mass * kappa for mass, kappa in zip(by_group, MULTIPLIERS, strict=True))
        np.testing.assert_allclose(float(got[place].sum()), total, rtol=0, atol=1e-6)
        expected[place] = [MULTIPLIERS[int(group)] * share for group, share in zip(own, row, strict=True)]
    assert_rows(got, expected)


@pytest.mark.parametrize("beta", [0.0, 0.4, 0.9])
def test_a_transfer_by_hand(beta):
    scores, groups = drawn()
    pattern = attention_pattern(scores)
    got, idle = transferred(pattern, groups == 1, groups == 2, beta)
    expected, left_alone = {}, 0
    for place, row, own in rows_of(pattern, groups):
        given, taking = (1 - beta) * sum(row[own == 1]), sum(row[own == 2])
        after = row.copy()
        if taking == 0:
            left_alone += given > 0
            assert bool(idle[place]) == (given > 0)
        else:
            for key, group in enumerate(own):
                if group == 1:
                    after[key] = beta * row[key]
                elif group == 2:
                    after[key] = row[key] + given * row[key] / taking
        expected[place] = after
    assert_rows(got, expected)
    assert left_alone == idle.sum() > 0
    torch.testing.assert_close(got.sum(-1), pattern.sum(-1), rtol=0, atol=1e-5)
    bystanders = (groups != 1) & (groups != 2)
    assert torch.equal(got[bystanders], pattern[bystanders])


def test_transfers_do_not_commute():
    scores, groups = drawn()
    pattern = attention_pattern(scores)

    def both(pairs):
        after = pattern
        for donors, receivers in pairs:
            after, _ = transferred(after, groups == donors, groups == receivers, 0.2)
        return after

    assert (both([(1, 0), (0, 2)]) - both([(0, 2), (1, 0)])).abs().max() > 0.01


def test_everything_given_to_all_others_is_a_knock_out():
    scores, groups = drawn()
    after, _ = transferred(attention_pattern(scores), groups == 1, groups != 1, 0.0)
    cut = attention_pattern(scores.masked_fill(groups == 1, -torch.inf))
    torch.testing.assert_close(after, cut, rtol=0, atol=1e-6)
    partly, _ = transferred(attention_pattern(scores), groups == 1, groups == 0, 0.0)
    assert (partly - cut).abs().max() > 0.1
    bystanders = groups > 1
    assert torch.equal(partly[bystanders], attention_pattern(scores)[bystanders])


def test_attention_calibration_equals_its_bias():
    """2406.15765: log(beta (1 - M) / (1 - beta M)) added to the scores of sinks, M their attention."""
    scores, groups = drawn(dtype=torch.float64)
    beta, sinks = 0.4, groups == 3
    pattern = attention_pattern(scores)
    got, _ = transferred(pattern, sinks, ~sinks, beta)
    mass = torch.where(sinks, pattern, 0).sum(-1, keepdim=True)
    bias = torch.log(beta * (1 - mass) / (1 - beta * mass))
    torch.testing.assert_close(got, attention_pattern(torch.where(sinks, scores + bias, scores)), rtol=0, atol=1e-12)
    given = sinks & (pattern > 0)
    torch.testing.assert_close(got[given] / pattern[given], torch.full_like(got[given], beta))
    # what receives keeps its proportions
    others = ~sinks & (pattern > 0)
    ratio = torch.where(others, got / pattern, torch.nan)
    assert float((ratio - ratio.nanmean(-1, keepdim=True)).nan_to_num().abs().max()) < 1e-12


def test_a_duoattention_gate_is_a_transfer():
    """2410.10819: alpha times full attention plus 1 - alpha times attention restricted to the keys that are kept."""
    scores, groups = drawn(dtype=torch.float64)
    middle, alpha = groups == 1, 0.3
    full, streaming = attention_pattern(scores), attention_pattern(scores.masked_fill(middle, -torch.inf))
    got, _ = transferred(full, middle, ~middle, alpha)
    torch.testing.assert_close(got, alpha * full + (1 - alpha) * streaming, rtol=0, atol=1e-12)


def test_visual_attention_redistribution_by_its_multipliers():
    """2503.03321: sinks keep p, visual keys that are none get 1 + (1 - p) M_sinks / M_visual, text keeps 1."""
    scores, groups = drawn(dtype=torch.float64)
    pattern, keep = attention_pattern(scores), 0.6
    got, idle = transferred(pattern, groups == 1, groups == 2, keep)
    masses = group_masses(pattern, groups, 4)
    boost = 1 + (1 - keep) * masses[..., 1] / masses[..., 2]
    multipliers = torch.stack([torch.ones_like(boost), torch.full_like(boost, keep), boost, torch.ones_like(boost)], -1)
    expected = pattern * multipliers.gather(-1, groups.long())
    some = masses[..., 2] > 0
    torch.testing.assert_close(got[some], expected[some], rtol=0, atol=1e-12)
    assert torch.equal(got[~some], pattern[~some]) and idle.any()


def test_the_limits_of_temperature():
    scores, _ = drawn()
    flat = attention_pattern(tempered(scores, torch.zeros(5)))
    sharp = attention_pattern(tempered(scores, torch.full((5,), 1e5)))
    expected_flat, expected_sharp = {}, {}
    for place, row in rows_of(scores):
        seen = np.isfinite(row)
        expected_flat[place] = seen / seen.sum()
        expected_sharp[place] = np.arange(len(row)) == row.argmax()
    assert_rows(flat, expected_flat)
    assert_rows(sharp, expected_sharp)


def test_what_nobody_can_receive_stays():
    pattern = torch.tensor([[[[0.5, 0.5, 0.0], [0.5, 0.5 - LEAST / 2, LEAST / 2], [0.25, 0.25, 0.5]]]])
    donors, receivers = torch.tensor([True, False, False]), torch.tensor([False, False, True])
    donors, receivers = (mask.expand(1, 1, 1, 3) for mask in (donors, receivers))
    after, idle = transferred(pattern, donors, receivers, 0.0)
    assert idle.tolist() == [[[True, True, False]]]
    assert torch.equal(after[0, 0, :2], pattern[0, 0, :2])
    torch.testing.assert_close(after[0, 0, 2], torch.tensor([0.0, 0.25, 0.75]))
    # nothing to give is not idle
    nothing, idle = transferred(pattern, receivers, ~receivers & ~donors, 0.0)
    assert not idle[0, 0, 0] and nothing.isfinite().all()


@pytest.mark.parametrize("operation", ["renorm", "raw", "tau", "transfer"])
def test_gradients_equal_finite_differences(operation):
    """Of a weighted sum of attention, in the logarithms of the multipliers (in tau, and in scores)."""
    scores, groups = drawn(dtype=torch.float64)
    values = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def outcome(parameters):
        match operation:
            case "renorm":
                pattern = attention_pattern(weighted(scores, groups, parameters.exp()))
            case "raw":
                pattern = scaled(attention_pattern(scores), groups, parameters.exp())
            case "tau":
                pattern = attention_pattern(tempered(scores, parameters))
            case _:
                shifted = scores + parameters[groups.long()]
                pattern, _ = transferred(attention_pattern(shifted), groups == 1, groups != 1, 0.4)
        return (pattern * values).sum()

    at = torch.tensor([0.2, -0.5, 1.1, 0.4, 0.9][: 5 if operation == "tau" else 4], dtype=torch.float64)
    parameters = at.clone().requires_grad_()
    outcome(parameters).backward()
    for index in range(len(at)):
        step = torch.zeros_like(at)
        step[index] = 1e-5
        slope = (outcome(at + step) - outcome(at - step)) / 2e-5
        assert abs(float(slope)) > 1e-3
        torch.testing.assert_close(parameters.grad[index], slope, rtol=1e-6, atol=1e-8)
