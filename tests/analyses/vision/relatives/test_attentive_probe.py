"""The attentive probe by hand, its sizes, and that its evidence is its logit."""

import pytest
import torch

from headlens.analyses.vision.relatives.attentive_probe import AttentiveProbe, MeanProbe

FEATURES = torch.randn(5, 7, 12, generator=torch.Generator().manual_seed(0)) * 3 + 1


def made(kind=AttentiveProbe, **sizes):
    torch.manual_seed(0)
    probe = kind(12, 3, **sizes)
    with torch.no_grad():
        for parameter in probe.parameters():
            torch.nn.init.normal_(parameter, std=0.7)
    return probe


@pytest.mark.parametrize(("queries", "reduce"), [(4, 1), (3, 2), (1, 1), (12, 1)])
def test_logits_by_hand(queries, reduce):
    probe = made(queries=queries, reduce=reduce)
    probe.fit_scale(FEATURES)
    width = 12 // reduce // queries
    x = (FEATURES - FEATURES.flatten(0, 1).mean(0)) / FEATURES.flatten(0, 1).std(0, correction=0)
    for sample, own in enumerate(x):
        v = own @ probe.values.weight.T + probe.values.bias
        parts = []
        for m in range(queries):
            a = (own @ probe.queries[m] / 12**0.5).softmax(0)
            parts.append(sum(a[n] * v[n, m * width : (m + 1) * width] for n in range(7)))
            torch.testing.assert_close(probe.maps(FEATURES)[sample, m], a)
        wanted = probe.classifier.weight @ torch.cat(parts) + probe.classifier.bias
        torch.testing.assert_close(probe(FEATURES)[sample], wanted)


def test_numbers_of_parameters():
    def count(probe):
        return sum(each.numel() for each in probe.parameters())

    # M D + D D / reduce + biases, and the classifier
    assert count(AttentiveProbe(128, 24, 8, 2)) == 8 * 128 + 128 * 64 + 64 + (64 + 1) * 24
    assert count(AttentiveProbe(128, 24, 8, 2)) - count(MeanProbe(128, 24, 2)) == 8 * 128


def test_rows_of_maps_add_up_to_1():
    maps = made(queries=4).maps(FEATURES * 50)
    assert maps.shape == (5, 4, 7)
    torch.testing.assert_close(maps.sum(-1), torch.ones(5, 4))


@pytest.mark.parametrize("probe", [made(queries=3, reduce=2), made(MeanProbe, reduce=2)], ids=["attentive", "mean"])
def test_evidence_adds_up_to_the_logit(probe):
    evidence = probe.evidence(FEATURES)
    assert evidence.shape == (5, 3, 7)
    torch.testing.assert_close(evidence.sum(-1) + probe.classifier.bias, probe(FEATURES))


def test_the_control_looks_at_all_patches_alike():
    probe = made(MeanProbe)
    probe.fit_scale(FEATURES)
    torch.testing.assert_close(probe.maps(FEATURES), torch.full((5, 1, 7), 1 / 7))
    mean = FEATURES.mean(1, keepdim=True)
    torch.testing.assert_close(probe(FEATURES), probe(mean))


def test_a_dimension_that_never_changes_stays_finite():
    probe = made(queries=4)
    probe.fit_scale(FEATURES * torch.tensor([0.0] + [1.0] * 11))
    assert probe(FEATURES).isfinite().all() and probe.deviation[0] == 1


@pytest.mark.parametrize("sizes", [{"queries": 5}, {"queries": 4, "reduce": 4}, {"reduce": 5}, {"queries": 0}])
def test_sizes_that_do_not_divide_are_refused(sizes):
    with pytest.raises(ValueError, match="expected reduce to divide the width"):
        AttentiveProbe(12, 3, **sizes)
