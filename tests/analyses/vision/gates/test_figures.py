"""Conditions on figures and the verdicts of gates, on made-up numbers."""

import numpy as np
import pytest

from headlens.analyses.vision.gates.figures import Figure, above, at_least, at_most, below, judged

NAN = float("nan")


def figure(value, low=NAN, high=NAN, least=NAN, most=NAN):
    return Figure("G0", "something", "rate", value, low, high, least, most)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (at_least, [False, True, True]),
        (above, [False, False, True]),
        (at_most, [True, True, False]),
        (below, [True, False, False]),
    ],
    ids=["at least", "above", "at most", "below"],
)
def test_a_condition_is_decided_by_the_value(make, expected):
    # bounds on the other side decide nothing
    assert [make(figure(value, 0.0, 1.0), 0.5).met for value in (0.4, 0.5, 0.6)] == expected
    assert make(figure(NAN), 0.5).met is None


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.6, 0.7], "holds"),
        ([0.6, 0.4], "fails"),
        ([0.6, NAN], "not defined"),
        ([0.4, NAN], "fails"),
        ([], "not defined"),
    ],
    ids=["all", "one does not", "one unknown", "one does not and one unknown", "none"],
)
def test_a_gate_fails_where_one_condition_does(values, verdict):
    gate = judged("G0", "a claim", [at_least(figure(value), 0.5) for value in values], "a remark", "")
    assert gate.verdict == verdict and gate.reading.endswith("a remark")


def test_a_reading_says_what_failed_and_what_intervals_leave_open():
    failed = judged("G0", "a claim", [at_least(figure(0.4), 0.5)])
    assert failed.reading == "rate of something is 0.400, claimed >= 0.5"
    assert judged("G0", "a claim", [at_least(figure(0.6, 0.55, 0.7), 0.5)]).reading == ""
    assert "leave open: rate of something" in judged("G0", "a claim", [at_least(figure(0.6, 0.4, 0.7), 0.5)]).reading
    # without an interval the seeds speak
    assert "leave open" in judged("G0", "a claim", [at_least(figure(0.6, least=0.4, most=0.7), 0.5)]).reading
    assert judged("G0", "a claim", [at_least(figure(0.6, least=0.6, most=0.6), 0.6)]).reading == ""


def test_verdicts_are_three_words():
    made = {judged("G0", "", [at_least(figure(value), 0.5)]).verdict for value in (0.0, 1.0, np.nan)}
    assert made == {"holds", "fails", "not defined"}
