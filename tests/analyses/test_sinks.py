"""Sinks: found where they are planted, nowhere else, as a plain loop over whole patterns finds them, in every mode."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache

from headlens.analyses.sink_tally import SinkTally
from headlens.analyses.sinks import find_sinks
from headlens.hooks import attention_taps
from headlens.hooks.attention_taps import Watch
from headlens.hooks.clock import Clock
from headlens.hooks.intercept import Attention
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.report import Report
from headlens.hooks.row_blocks import row_blocks
from headlens.hooks.sink_rule import MODES, SinkRule
from headlens.hooks.sites import Site
from headlens.hooks.tapped import tapped
from tiny_models import held, inputs_for

# Attention of the tiny models is spread over few keys, so that the paper's bound would find nothing.
LOOSE = {"alpha": 1.4, "min_rows": 3, "min_share": 0.15}
FIRST_LAYER = [f"L0H{head}" for head in range(4)]
CAUSAL = ("causal_column", "row")
NUMBERS = ("share", "received", "times")


def tallied(pattern, most=4096, **rule):
    """What one head with this attention gives: share, received, times of each key."""
    length = len(pattern)
    # with one-hot keys the scores are the logs of the attention; what is hidden is masked
    logs = torch.tensor(np.log(np.where(pattern > 0, pattern, 1)), dtype=torch.float32)[None, None]
    values = torch.zeros(1, 1, length, 1)
    call = Attention(logs, torch.eye(length)[None, None], values, mask=None, scaling=1.0, causal=True)
    tally = SinkTally(SinkRule(**rule))
    for block in row_blocks(call, 0, (0,), Clock(), most=most):
        tally.look(block, block.pattern)
    rows, flagged, received, times = (part[0, 0].numpy() for part in tally.of_keys(length))
    return flagged / rows, received / rows, times


def previous_token(length):
    """0.9 on the token before, the rest evenly on all others."""
    pattern = np.zeros((length, length))
    pattern[0, 0] = 1
    for row in range(1, length):
        pattern[row, : row + 1] = 0.1 / row
        pattern[row, row - 1] = 0.9
    return pattern


def by_hand(pattern, mode, alpha=5.0, threshold=None, min_rows=16, min_share=0.2, first=False, start=0):
    """Share, received and times of each key [head, key], from whole patterns [head, row, key] of real rows, in loops.

    `start` is the first token's place; rows and keys before it are left out by the caller.
    """
    heads, length, _ = pattern.shape
    share, received, times = (np.zeros((heads, length)) for _ in range(3))
    for head in range(heads):
        own, sees = pattern[head].astype(np.float64), pattern[head] > 0
        for key in range(length):
            rows = [row for row in range(length) if sees[row, key]]
            received[head, key] = sum(own[row, key] for row in rows) / len(rows)
            found = 0
            for row in rows:
                before = [other for other in rows if other <= row]
                if mode == "prefill_column":
                    evidence, so_far, total = received[head, key], len(rows), sees.sum(0).max()
                elif mode == "causal_column":
                    evidence, so_far, total = (
                        sum(own[r, key] for r in before) / len(before),
                        len(before),
                        sees[row].sum(),
                    )
                else:
                    evidence, so_far, total = own[row, key], row - key + 1, sees[row].sum()
                bound = alpha / total if threshold is None else threshold
                if evidence > bound and so_far >= min_rows and so_far >= min_share * total and (first or key != start):
                    found += 1
                    times[head, key] = max(times[head, key], evidence / bound)
            share[head, key] = found / len(rows)
    return share, received, times


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", [64, 100, 257, 1024])
def test_an_ideal_previous_token_head_has_no_sinks(mode, length):
    share, received, times = tallied(previous_token(length), most=2**20, mode=mode)
    assert not share.any() and not times.any()
    assert received[length // 2] == pytest.approx(0.9 / (length - length // 2), rel=0.3)


@pytest.mark.parametrize("length", [64, 257, 1024])
def test_without_the_guard_its_newest_keys_would_be(length):
    unguarded = partial(tallied, previous_token(length), most=2**20, min_rows=1, min_share=0.0)
    newest = np.flatnonzero(unguarded(mode="prefill_column")[0])
    assert 0.155 <= len(newest) / length <= 0.185 and newest[-1] == length - 2 == newest[0] + len(newest) - 1
    # the code of 2406.15765
    assert np.flatnonzero(unguarded(mode="prefill_column", threshold=0.1)[0]).tolist() == [
        *range(length - 9, length - 1)
    ]
    for mode in CAUSAL:
        assert (unguarded(mode=mode)[0] > 0).mean() > 0.8


@pytest.mark.parametrize("most", [1, 1000, 2**20])
def test_a_planted_sink_is_found_in_every_mode(most):
    length, sink = 40, 7
    pattern = np.tril(np.ones((length, length)))
    pattern /= pattern.sum(1, keepdims=True)
    pattern[sink:] *= 0.5
    pattern[sink:, sink] += 0.5
    for mode in MODES:
        share, received, times = tallied(pattern, most, mode=mode)
        assert np.flatnonzero(share).tolist() == [sink] == np.flatnonzero(times).tolist()
        # of the rows 7 to 39, those from 22 on come after 16 that saw it
        assert share[sink] == pytest.approx(1 if mode == "prefill_column" else 18 / 33)
        assert received[sink] == pytest.approx(pattern[sink:, sink].mean())
        assert times[sink] > 4


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "mistral", "gpt_oss", "t5"])
def test_a_plain_loop_over_whole_patterns_agrees(name, mode):
    model, inputs = held(name), inputs_for(name, length=23)
    sinks = find_sinks(model, inputs, mode, **LOOSE)
    _, kept = model.record(inputs, names_filter="pattern")
    for layer in range(model.n_layers):
        for prompt, pattern in enumerate(kept[f"blocks.{layer}.attn.hook_pattern"].detach().numpy()):
            for name_, expected in zip(NUMBERS, by_hand(pattern, mode, **LOOSE), strict=True):
                np.testing.assert_allclose(
                    getattr(sinks, name_)[prompt, layer], expected, rtol=1e-4, atol=1e-5, err_msg=name_
                )
    assert 0.005 < sinks.flagged.mean() < 0.7


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_an_encoder_has_the_paper_s_sinks_and_no_causal_ones(name):
    model, inputs = held(name), inputs_for(name, length=23)
    sinks = find_sinks(model, inputs, "prefill_column", **LOOSE, first=True)
    _, kept = model.record(inputs, names_filter="pattern")
    for prompt, pattern in enumerate(kept["blocks.1.attn.hook_pattern"].detach().numpy()):
        share, received, _ = by_hand(pattern, "prefill_column", **LOOSE, first=True)
        np.testing.assert_allclose(sinks.share[prompt, 1], share)
        np.testing.assert_allclose(sinks.received[prompt, 1], received, atol=1e-5)
    assert sinks.flagged.any()
    for mode in CAUSAL:
        with pytest.raises(ValueError, match=f"Mode '{mode}' .* every row sees the whole prompt; .*prefill_column"):
            find_sinks(model, inputs, mode)


def test_a_bound_from_alpha_is_the_absolute_one_at_one_length():
    model, ids = held("llama"), inputs_for("llama", length=20)["input_ids"]
    guard = {"min_rows": 2, "min_share": 0.0}
    relative = find_sinks(model, ids, "prefill_column", alpha=1.6, **guard)
    absolute = find_sinks(model, ids, "prefill_column", threshold=1.6 / 20, **guard)
    assert np.array_equal(relative.share, absolute.share, equal_nan=True) and relative.flagged.any()
    np.testing.assert_allclose(relative.times, absolute.times, rtol=1e-6)
    shorter = [
        find_sinks(model, ids[:, :10], "prefill_column", **guard, **bound)
        for bound in ({"alpha": 1.6}, {"threshold": 0.08})
    ]
    assert not np.array_equal(shorter[0].share, shorter[1].share, equal_nan=True)


def sink_rows(model, ids, rule):
    """Which keys are sinks of each row [prompt, layer, head, row, key]."""
    tables = []

    def look(memory, table, block, pattern):
        table[:, :, block.queries[0] : block.queries[-1] + 1, : len(block.keys)] = rule.evidence(block, memory).sink

    watches = []
    for layer in range(model.n_layers):
        tables.append(torch.zeros(len(ids), model.n_heads, ids.shape[1], ids.shape[1], dtype=torch.bool))
        watches.append(Watch(Site("pattern", layer), partial(look, {}, tables[-1]), "test"))
    with torch.no_grad(), tapped(model.hf, model.towers, watches):
        model(ids)
    return torch.stack(tables, 1)


@pytest.mark.parametrize("mode", MODES)
def test_only_the_paper_s_mode_looks_at_later_tokens(mode):
    model, ids = held("gpt2"), inputs_for("gpt2", length=30)["input_ids"]
    whole = sink_rows(model, ids, SinkRule(mode, **LOOSE))
    prefix = sink_rows(model, ids[:, :17], SinkRule(mode, **LOOSE))
    assert prefix.any()
    assert torch.equal(whole[..., :17, :17], prefix) is (mode in CAUSAL)
    if mode in CAUSAL:
        found, longer = (find_sinks(model, some, mode, **LOOSE).flagged for some in (ids[:, :17], ids))
        assert not (found & ~longer[..., :17]).any()


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_oss"])
@pytest.mark.parametrize("mode", CAUSAL)
def test_as_donors_they_are_the_rule_in_prefill_and_decode(name, mode):
    model, ids = held(name), inputs_for(name, length=20)["input_ids"]
    sinks = find_sinks(model, ids[:1], mode, **LOOSE)
    edit = Recalibrate("all", policy="transfer", donors=sinks, receivers="rest", beta=0.4)
    with torch.no_grad():
        plain = model(ids)
        with model.edited(edit):
            whole = model(ids)
        with model.edited(edit):
            cache, steps = DynamicCache(config=model.hf.config), []
            for start, end in ((0, 6), *((at, at + 1) for at in range(6, 20))):
                mask = torch.ones(2, end, dtype=torch.int64)
                steps.append(model(ids[:, start:end], past_key_values=cache, attention_mask=mask, use_cache=True))
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=0, atol=1e-4)
    assert (whole - plain).abs().max() > 0.01


def test_the_mass_is_what_an_edit_moves():
    model, ids = held("llama"), inputs_for("llama", length=23)["input_ids"]
    sinks, report = find_sinks(model, ids, "prefill_column", **LOOSE), Report()
    with (
        torch.no_grad(),
        model.edited(
            Recalibrate(FIRST_LAYER, policy="transfer", donors=sinks, receivers="rest", beta=0.4), report=report
        ),
    ):
        model(ids)
    for head, one in report.heads.items():
        assert one.moved == pytest.approx(0.6 * sinks.mass().values[0, head.head] * 2 * 23, abs=1e-4)
    assert sinks.mass().values[0].any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_oss"])
def test_padding_changes_nothing(name, side, mode):
    model, ids = held(name), inputs_for(name, length=22)["input_ids"]
    mask = torch.ones_like(ids)
    mask[1, :6] = 0
    # one token comes again; the padding is another of the prompt's own
    ids[1, 8] = ids[1, 15]
    ids[1, :6] = ids[1, 10]
    if side == "right":
        ids[1], mask[1] = ids[1].roll(-6), mask[1].roll(-6)
    together = find_sinks(model, {"input_ids": ids, "attention_mask": mask}, mode, **LOOSE)
    counts, mass = together.counts(), together.mass()
    for prompt, columns in enumerate(mask.bool()):
        alone = find_sinks(model, ids[prompt, columns], mode, **LOOSE)
        for name_ in (*NUMBERS, "rows"):
            given = getattr(together, name_)[prompt]
            np.testing.assert_allclose(given[..., columns], getattr(alone, name_)[0], atol=1e-5, err_msg=name_)
            empty = given[..., ~columns]
            assert np.isnan(empty).all() if name_ in ("share", "received") else not empty.any()
        np.testing.assert_allclose(together.massive.peak[prompt][:, columns], alone.massive.peak[0], rtol=1e-3)
        assert np.isnan(together.massive.peak[prompt][:, ~columns]).all()
        assert np.array_equal(counts.samples[prompt], alone.counts().samples[0])
        np.testing.assert_allclose(mass.samples[prompt], alone.mass().samples[0], atol=1e-6)
        assert np.array_equal(together.prompts.first_repeats[prompt][columns], alone.prompts.first_repeats[0])
        assert np.array_equal(together.candidates[prompt][columns], alone.candidates[0])
    assert together.flagged[1].any() and together.prompts.first_repeats[1].any()


@pytest.mark.parametrize("mode", MODES)
def test_the_size_of_the_blocks_does_not_matter(mode, monkeypatch):
    model, ids = held("gemma3"), inputs_for("gemma3", length=23)["input_ids"]
    whole = find_sinks(model, ids, mode, **LOOSE)
    monkeypatch.setattr(attention_taps, "row_blocks", partial(row_blocks, most=3000))
    parts = find_sinks(model, ids, mode, **LOOSE)
    for name in NUMBERS:
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), atol=1e-6, err_msg=name)
    assert whole.flagged.any()


def test_no_pattern_of_a_layer_is_ever_whole(monkeypatch):
    model, ids = held("llama"), inputs_for("llama", length=60)["input_ids"]
    whole = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple) else [out]:
                if isinstance(tensor, torch.Tensor) and tensor.numel() >= 4 * 60 * 60:
                    whole.append((function, tensor.shape))
            return out

    monkeypatch.setattr(attention_taps, "row_blocks", partial(row_blocks, most=4000))
    for mode in MODES:
        with Sizes():
            find_sinks(model, ids[:1], mode, **LOOSE)
    assert not whole
    with Sizes(), torch.no_grad():
        model.record(ids[:1], names_filter="pattern")
    assert whole
