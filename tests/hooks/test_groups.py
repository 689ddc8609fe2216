"""Which keys are in a group, seen by cutting them out of recorded rows; and groups that cannot be."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from group_members import expected, members
from headlens.hooks.groups import (
    Chosen,
    Either,
    First,
    Image,
    Kind,
    Massive,
    Positions,
    Recent,
    TokenIds,
    Words,
    as_group,
)
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.row_edits import KnockOut
from headlens.hooks.sink_rule import SinkRule
from tiny_models import IMAGE_TOKEN, N_IMAGE_TOKENS, held, inputs_for
from untyped import untyped


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


BY_PLACE = {
    "number": (4, lambda prompt, row, key: key == 4),
    "numbers": ([4, 0, 4], lambda prompt, row, key: key in (0, 4)),
    "range": (range(3, 6), lambda prompt, row, key: 3 <= key < 6),
    "scalar_tensor": (torch.tensor(3), lambda prompt, row, key: key == 3),
    "by_prompt": (torch.tensor([[1, 2], [5, 5]]), lambda prompt, row, key: key in ((1, 2), (5,))[prompt]),
    "first": ("first", lambda prompt, row, key: key == 0),
    "first_three": (First(3), lambda prompt, row, key: key < 3),
    "recent": (Recent(2), lambda prompt, row, key: 0 <= row - key < 2),
    "union": ([First(1), Recent(2), 5], lambda prompt, row, key: key in (0, 5, row, row - 1)),
    "either": (Either((Recent(1), Either((Positions(torch.tensor([2])),)))), lambda p, row, key: key in (2, row)),
    "chosen": (lambda block: (block.keys % 3 == 1)[None, None, None], lambda prompt, row, key: key % 3 == 1),
}


@pytest.mark.parametrize("name", ["llama", "gemma3", "bert", "vit", "t5"])
@pytest.mark.parametrize("kind", BY_PLACE)
def test_keys_by_place(name, kind):
    group, belongs = BY_PLACE[kind]
    got, visible = members(held(name), inputs_for(name), group)
    assert torch.equal(got, expected(visible, belongs))
    assert got.any() and not got[visible].all()


def test_a_function_sees_the_heads_and_rows_of_its_edit():
    model, inputs, seen = held("llama"), inputs_for("llama"), []

    def strong(block):
        seen.append((block.layer, block.heads, len(block.queries)))
        return block.pattern == block.pattern.amax(-1, keepdim=True)

    site = "blocks.1.attn.hook_pattern"
    plain = model.record(inputs, names_filter=site)[1][site]
    with model.edited(KnockOut(["L1H3", "L1H1"], groups=Chosen(strong), policy="raw")):
        cut = model.record(inputs, names_filter=site)[1][site]
    assert seen == [(1, (1, 3), 11)]
    for head in (1, 3):
        largest = plain[:, head].argmax(-1)
        assert torch.equal((cut[:, head] != plain[:, head]).int().argmax(-1), largest)
        assert int((cut[:, head] != plain[:, head]).sum()) == 22
    assert torch.equal(cut[:, [0, 2]], plain[:, [0, 2]])


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (lambda block: None, "returned NoneType"),
        (lambda block: block.pattern, r"returned torch.float32 \(2, 1, 11, 11\)"),
        (lambda block: block.visible[0], r"returned torch.bool \(1, 11, 11\)"),
        (lambda block: block.visible[..., :4], r"returned torch.bool \(2, 1, 11, 4\)"),
        (lambda block: block.visible[:, :, :3], r"returned torch.bool \(2, 1, 3, 11\)"),
    ],
)
def test_a_function_that_answers_something_else(answer, found):
    model = held("llama")
    expected = r"expected booleans \[batch, head, row, key\] = \(2, 1, 11, 11\)"
    with pytest.raises(ValueError, match=f"{found}; {expected}"), model.edited(KnockOut("L1H2", groups=answer)):
        model(inputs_for("llama"))


def test_image_patches():
    model, inputs = held("llava"), inputs_for("llava")
    assert int(inputs["input_ids"][0, N_IMAGE_TOKENS - 1]) == IMAGE_TOKEN
    for group in ("image", Image()):
        got, visible = members(model, inputs, group)
        assert torch.equal(got, expected(visible, lambda prompt, row, key: key < N_IMAGE_TOKENS))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "t5"])
def test_massive_activations_by_hand(name):
    model, inputs = held(name), inputs_for(name)
    resid = model.record(inputs, names_filter="resid_pre")[1]["blocks.2.hook_resid_pre"].double().numpy()
    massive = np.zeros(resid.shape[:2], dtype=bool)
    for prompt, pos in np.ndindex(*massive.shape):
        vector = resid[prompt, pos]
        size = np.sqrt((vector**2).sum() / len(vector))
        massive[prompt, pos] = any(abs(vector[dim]) / size > 1.2 for dim in (0, 5))
    assert massive.any() and not massive.all()
    got, visible = members(model, inputs, Massive((0, 5), above=1.2), layer=2)
    assert torch.equal(got, expected(visible, lambda prompt, row, key: massive[prompt, key]))


def sinks_by_hand(pattern, visible, rule):
    """Row by row and key by key, from numpy attention [row, key] of one head."""
    out = np.zeros_like(visible)
    for row, key in np.argwhere(visible):
        rows = {"row": [row], "causal_column": range(row + 1), "prefill_column": range(len(pattern))}[rule.mode]
        seeing = [other for other in rows if visible[other, key]]
        length = visible.sum(-1).max() if rule.mode == "prefill_column" else visible[row].sum()
        received = sum(pattern[other, key] for other in seeing) / len(seeing)
        age = row - key + 1 if rule.mode == "row" else len(seeing)
        old = age >= rule.min_rows and age >= rule.min_share * length
        bound = rule.alpha / length if rule.threshold is None else rule.threshold
        out[row, key] = received > bound and old and (rule.first or key > 0)
    return out


@pytest.mark.parametrize("mode", ["row", "causal_column", "prefill_column"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("chosen", [{}, {"first": True}, {"threshold": 0.15}], ids=["alpha", "first", "threshold"])
def test_sinks_by_hand(mode, name, chosen):
    model, inputs = held(name), inputs_for(name, length=17)
    rule = SinkRule(mode, alpha=1.3, min_rows=3, min_share=0.25, **chosen)
    got, visible = members(model, inputs, rule)
    site = "blocks.1.attn.hook_pattern"
    pattern = model.record(inputs, names_filter=site)[1][site][:, 2].double().numpy()
    for prompt in range(2):
        assert got[prompt].tolist() == sinks_by_hand(pattern[prompt], visible[prompt].numpy(), rule).tolist()
    assert got.any()
    found = SimpleNamespace(rule=rule)
    assert torch.equal(members(model, inputs, found)[0], got)


def test_a_result_stands_for_its_rule():
    rule = SinkRule("row", alpha=3.0)
    assert as_group(SimpleNamespace(rule=rule)) is rule
    with pytest.raises(ValueError, match="is not a group of keys"):
        as_group(SimpleNamespace(rule="row"))


def test_streaming_as_in_duoattention():
    """2410.10819: alpha times full attention and the rest of attention to the first 4 and newest 8 keys alone."""
    model, inputs, alpha = held("llama"), inputs_for("llama", length=23), 0.3
    site = "blocks.0.attn.hook_pattern"
    full = model.record(inputs, names_filter=site)[1][site][:, 1].double()
    kept = [First(4), Recent(8)]
    edit = Recalibrate("L0H1", donors="rest", receivers=kept, beta=alpha, policy="transfer")
    with model.edited(edit):
        got = model.record(inputs, names_filter=site)[1][site][:, 1].double()
    expected_rows = torch.zeros_like(full)
    for row in range(23):
        streaming = full[:, row].clone()
        streaming[:, [key for key in range(23) if key >= 4 and row - key >= 8]] = 0
        expected_rows[:, row] = alpha * full[:, row] + (1 - alpha) * streaming / streaming.sum(-1, keepdim=True)
    torch.testing.assert_close(got, expected_rows, rtol=0, atol=1e-6)
    with model.edited(Recalibrate("L0H1", {"kept": kept}, {"rest": 0.0})):
        cut = model.record(inputs, names_filter=site)[1][site][:, 1]
    assert (cut[:, 20] > 0).tolist() == [[key < 4 or key > 12 for key in range(21)] + [False] * 2] * 2


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: as_group("frist"), r"Unknown group 'frist' \(did you mean 'first'\?\); groups with a name are first"),
        (lambda: as_group(1.5), "1.5 is not a group of keys; give positions, a name such as"),
        (lambda: as_group(True), "True is not a group of keys"),
        (lambda: as_group([]), "is not a group of keys"),
        (lambda: as_group([First(1), 2.5]), "2.5 is not a group of keys"),
        (lambda: as_group(-1), r"Positions \[-1\] were given; expected whole numbers from 0"),
        (lambda: as_group(torch.tensor([True, False])), r"\[True, False\] were given; expected whole numbers"),
        (lambda: as_group(torch.tensor([0.5])), "expected whole numbers from 0"),
        (lambda: as_group(torch.zeros(2, 2, 2, dtype=torch.int64)), r"\[n\] or \[prompt, n\]"),
        (lambda: First(0), r"First\(n=0\) was given; expected a whole number of tokens from 1"),
        (lambda: Recent(-2), r"Recent\(n=-2\)"),
        (lambda: Kind("punctation"), r"'punctation' \(did you mean 'punctuation'\?\); the kinds are special, newline"),
        (lambda: Words(), "expected texts one by one"),
        (lambda: untyped(Words, ["a", "b"]), "expected texts one by one"),
        (lambda: untyped(TokenIds, 5), "TokenIds was given 5; expected whole numbers from 0"),
        (lambda: TokenIds((3, -1)), "TokenIds was given"),
        (lambda: untyped(Massive, 5), "Massive was given 5; expected whole numbers from 0: dimensions"),
        (lambda: Massive((-1,)), "Massive was given"),
        (lambda: Massive(()), "expected one dimension or more"),
        (lambda: Massive((1,), above=float("nan")), "above=nan"),
        (
            lambda: SinkRule("columns"),
            r"Unknown sink mode 'columns'.*; the modes are prefill_column, causal_column, row",
        ),
        (lambda: SinkRule(alpha=float("nan")), "alpha=nan; expected a positive number"),
        (lambda: SinkRule(threshold=-0.1), "threshold=-0.1"),
        (lambda: SinkRule(min_rows=0), "min_rows=0"),
    ],
)
def test_groups_that_cannot_be(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("punctuation", "need a tokenizer, and this model was loaded without one; load it with tokenizer=, or give"),
        (Words("a"), "need a tokenizer"),
        ("image", "LlamaConfig names no image token, so this model has no image patches"),
        (Massive((3, 40)), r"Massive names dimension 40; the residual stream has 0\.\.31"),
        (torch.tensor([[1], [2], [3]]), r"positions for 3 prompts and 2 are run; give \[n\] positions"),
    ],
)
def test_groups_that_this_model_or_run_has_not(group, message):
    model = held("llama")
    with pytest.raises(ValueError, match=message), model.edited(KnockOut("L1H1", groups=group, policy="raw")):
        model(inputs_for("llama"))


def test_groups_by_token_need_token_ids():
    model, ids = held("llama"), inputs_for("llama")["input_ids"]
    embedded = {"inputs_embeds": model.hf.get_input_embeddings()(ids)}
    edit = KnockOut("L1H1", groups=TokenIds((5,)), policy="raw")
    with pytest.raises(ValueError, match="needs the token ids of the whole run, and it was given embeddings"):
        with model.edited(edit):
            model(embedded)
    # what needs no ids runs
    with model.edited(KnockOut("L1H1", groups="first", policy="raw")):
        got = model(embedded)
    with model.edited(KnockOut("L1H1", groups="first", policy="raw")):
        assert torch.equal(model(ids), got)
