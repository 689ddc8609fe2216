"""Forced rows against plain eager attention, on a model whose repair is known, and beside their controls."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

import task_tokenizers
from end_tasks import ragged_task, scrambled, scrambled_weights
from headlens.analyses import tasks
from headlens.analyses.circuits.repair import (
    _option_tokens,
    _other_tokens,
    _own_positions,
    _wrong_places,
    repair,
)
from headlens.hooks.model import wrap
from headlens.hooks.sites import parse_head

QUIET = {"progress": False}
ARMS = {"early": ["L0H1", "L1H2"], "late": "L2H3", "all": ["L0H1", "L1H2", "L2H3"]}
PLACES = [[2, 5], [1, 4], [7, 0], [3, 3], [2], [8, 10]]


def at_places(task):
    return PLACES


def prompts():
    """Three lengths, ENDs within, and two prompts in which the answer stands twice."""
    task = ragged_task()
    tokens = task.clean_tokens.clone()
    tokens[0, [6, 9]], tokens[3, 4] = task.answers[0], task.answers[3]
    return replace(task, clean_tokens=tokens)


class Eager:
    """Attention as a sum over a softmaxed row; the rows of some heads at one position are put on chosen keys."""

    def __init__(self, hf):
        self.hf, self.forced, self.end, self.keys, self.rows, self.z, self.streams = hf, (), 0, (), {}, {}, {}
        AttentionInterface.register("forced_by_hand", self)
        hf.set_attn_implementation("forced_by_hand")
        inner = getattr(hf, "transformer", None) or hf.model
        for block in getattr(inner, "h", None) or inner.layers:
            block.register_forward_hook(self.note)

    def note(self, block, args, out):
        self.streams[block] = (out[0] if isinstance(out, tuple) else out)[0, self.end]

    def __call__(self, module, query, key, value, mask, **kwargs):
        each = query.shape[1] // key.shape[1]
        key, value = (states.repeat_interleave(each, 1) for states in (key, value))
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        pattern = scores.masked_fill(later, -torch.inf).softmax(-1)
        for layer, head in self.forced:
            if layer == module.layer_idx:
                pattern[:, head, self.end] = 0
                pattern[:, head, self.end, sorted({*self.keys})] = 1 / len({*self.keys})
        self.rows[module.layer_idx] = pattern[0, :, self.end]
        z = (pattern @ value).transpose(1, 2).contiguous()
        self.z[module.layer_idx] = z[0, self.end]
        return z, pattern

    def logits(self, tokens, end, heads=(), keys=()):
        self.forced, self.end, self.keys = [tuple(parse_head(head)) for head in heads], end, keys
        with torch.no_grad():
            return self.hf(input_ids=tokens[None], use_cache=False).logits[0, end]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def eager(name):
    return Eager(scrambled_weights(name))


@pytest.fixture(scope="module")
def found(name):
    task = prompts()
    return repair(scrambled(name), task, ARMS, wrong=at_places, n_random=3, followers=["L1H0", "L2H1"], **QUIET)


def by_hand(eager, heads, places):
    """Logits [prompt, vocabulary] of each prompt alone, whole, nothing cached."""
    task = prompts()
    ends = task.positions["END"].tolist()
    rows = zip(task.clean_tokens, ends, places, strict=True)
    return torch.stack([eager.logits(row, end, heads, keys) for row, end, keys in rows])


def check(readings, logits):
    task, rows = prompts(), torch.arange(6)
    expected = logits[rows, task.answers] - logits[rows, task.foils]
    assert np.allclose(readings.logit_diff, expected, atol=2e-4)
    assert np.array_equal(readings.right, logits.argmax(-1) == task.answers)
    for prompt, keys in enumerate(PLACES):
        wrong = [int(task.foils[prompt]), *task.clean_tokens[prompt, keys].tolist()]
        best = max(wrong, key=lambda token: float(logits[prompt, token]))
        assert readings.among[prompt] == float(logits[prompt, task.answers[prompt]] > logits[prompt, best])


def test_arms_are_eager_rows_replaced_by_hand(found, eager):
    plain = by_hand(eager, (), PLACES)
    check(found.before, plain)
    for arm, heads in found.arms.items():
        logits = by_hand(eager, [str(head) for head in heads], PLACES)
        assert (logits - plain).abs().max() > 0.1
        check(found.after[arm], logits)


def test_controls_are_eager_rows_replaced_by_hand(found, eager):
    task = prompts()
    places = _wrong_places(task, at_places, _own_positions(task))
    others = _other_tokens(task, places, _own_positions(task), 3, 0)
    for draw in range(3):
        heads = [str(head) for head in found.arms["all"]]
        check(found.other_tokens["all"][draw], by_hand(eager, heads, others[draw].tolist()))
        heads = [str(head) for head in found.random_heads["early"][draw]]
        check(found.other_heads["early"][draw], by_hand(eager, heads, PLACES))
        assert [head[1] for head in heads] == ["0", "1"] and heads != ["L0H1", "L1H2"]


def written_by_hand(eager, layer, head, answer, foil):
    """What a head's write adds to answer minus foil in the last run, the final norm keeping that run's statistics."""
    hf = eager.hf
    inner = getattr(hf, "transformer", None) or hf.model
    last = inner.h[-1] if hasattr(inner, "h") else inner.layers[-1]
    norm = inner.ln_f if hasattr(inner, "h") else inner.norm
    block = (inner.h if hasattr(inner, "h") else inner.layers)[layer]
    weights = block.attn.c_proj.weight if hasattr(inner, "h") else block.self_attn.o_proj.weight.T
    wrote, stream = eager.z[layer][head] @ weights[8 * head : 8 * head + 8], eager.streams[last]
    if hasattr(inner, "h"):
        wrote, stream = wrote - wrote.mean(), stream - stream.mean()
    eps = norm.eps if hasattr(inner, "h") else norm.variance_epsilon
    unembedding = hf.get_output_embeddings().weight
    through = wrote / (stream.square().mean() + eps).sqrt() * norm.weight
    return float((through * (unembedding[answer] - unembedding[foil])).sum())


@torch.no_grad()
@pytest.mark.parametrize("arm", ["before", *ARMS])
def test_followers_are_read_in_the_edited_run(found, eager, arm):
    task, own = prompts(), _own_positions(prompts())
    assert own.sum(1).tolist() == [2, 0, 0, 2, 0, 0]
    followed = found.followed_before if arm == "before" else found.followed[arm]
    heads = () if arm == "before" else [str(head) for head in found.arms[arm]]
    for prompt, end in enumerate(task.positions["END"].tolist()):
        eager.logits(task.clean_tokens[prompt], end, heads, PLACES[prompt])
        for at, (layer, head) in enumerate(found.followers):
            row, here = eager.rows[layer][head], own[prompt].nonzero()[:, 0]
            wrong = float(row[sorted({*PLACES[prompt]})].sum())
            right = float(row[here].sum()) if len(here) else np.nan
            written = written_by_hand(eager, layer, head, task.answers[prompt], task.foils[prompt])
            assert followed.to_wrong[at, prompt] == pytest.approx(wrong, abs=1e-5)
            assert followed.to_right[at, prompt] == pytest.approx(right, abs=1e-5, nan_ok=True)
            assert followed.attribution[at, prompt] == pytest.approx(written, abs=2e-4)


def test_what_stands_in_front_of_an_arm_does_not_follow_it(found):
    for kind in ("to_wrong", "attribution"):
        before, late, early = (
            getattr(each, kind) for each in (found.followed_before, found.followed["late"], found.followed["early"])
        )
        # what L1H0 reads is the same, though its write is divided by another norm
        assert (np.abs(early - before) > 1e-3).any()
        assert np.array_equal(late[0], before[0]) is (kind == "to_wrong")


def test_followers_are_compared_in_a_frame_that_says_oracle(found):
    frame = found.followers_frame().set_index(["arm", "head"])
    row, after = frame.loc["all", "L2H1"], found.followed["all"]
    change = after.attribution[1] - found.followed_before.attribution[1]
    assert len(frame) == 6 and frame.oracle.all()
    assert row.attribution_change == pytest.approx(change.mean(), abs=1e-5)
    assert row.attribution_low <= row.attribution_change <= row.attribution_high
    assert row.to_right_after == pytest.approx(np.nanmean(after.to_right[1]), abs=1e-6)
    assert "Follower L2H1: attention" in found.described()


def test_other_tokens_are_as_many_and_no_options():
    task, own = prompts(), _own_positions(prompts())
    places = _wrong_places(task, at_places, own)
    for draw in _other_tokens(task, places, own, 4, 0):
        for prompt, row in enumerate(draw.tolist()):
            options = {*PLACES[prompt], *own[prompt].nonzero()[:, 0].tolist()}
            assert len({*row}) == len({*PLACES[prompt]}) and not {*row} & options
            assert max(row) < task.positions["END"][prompt]


@pytest.mark.parametrize("wording", ["paper", "plain"])
@pytest.mark.parametrize("family", task_tokenizers.FAMILIES)
def test_colors_that_were_not_asked_for_are_wrong(family, wording):
    tokenizer = task_tokenizers.FAMILIES[family]()
    task = tasks.colored_objects(tokenizer, n=12, seed=1, wording=wording)
    places = _wrong_places(task, None, _own_positions(task))
    options = _option_tokens(task, places)
    texts = [[*map(str.strip, tokenizer.batch_decode(row))] for row in options.clamp(min=0)[..., None].tolist()]
    for prompt, queried in enumerate(task.details["queried"]):
        slots = [slot for slot in (1, 2, 3) if slot != queried]
        assert places[prompt].tolist() == sorted(int(task.positions[f"C{slot}"][prompt]) for slot in slots)
        for text, token, place in zip(texts[prompt], options[prompt].tolist(), places[prompt].tolist(), strict=True):
            standing = tokenizer.decode(task.clean_tokens[prompt, place]).strip()
            assert token == -1 or text == (
                standing.title() if wording == "paper" and family != "word_pieces" else standing
            )
    assert (options != -1).float().mean() > (0.5 if wording == "paper" else 0.99)
    # one prompt shows how two of its three options are answered
    alone = _option_tokens(task.subset([5]), places[[5]])
    assert (alone == -1).sum() == (wording == "paper" and family != "word_pieces")
    some = task.subset([7, 2])
    assert torch.equal(_wrong_places(some, None, _own_positions(some)), places[[7, 2]])


def test_colored_objects_run():
    tokenizer = task_tokenizers.one_digit()
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = wrap(LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).eval(), tokenizer)
    task = tasks.colored_objects(model, n=4, wording="paper").subset([0, 1])
    found = repair(model, task, {"one": "L1H0"}, n_random=2, followers="L1H1", **QUIET)
    assert found.after["one"].right.shape == (2,) and len(found.other_heads["one"].right) == 1
    assert found.provenance["wrong"] == ["C1", "C2", "C3"]
    # " Blue" answers " blue", and two prompts do not show it of every color
    options = _option_tokens(task, _wrong_places(task, None, _own_positions(task)))
    unknown = (options == -1).any(1).numpy()
    assert unknown.any() and np.array_equal(np.isnan(found.after["one"].among), unknown)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"arms": {}}, "heads by name"),
        ({"arms": {"none": []}}, "heads by name"),
        ({"arms": {"far": "L9H0"}}, "L9H0 does not exist"),
        ({"wrong": None}, "no position 'C1'; say where"),
        ({"wrong": ["S2"]}, "no position 'S2'"),
        ({"wrong": lambda task: [[1]] * 5}, "for 5 prompts and the task has 6"),
        ({"wrong": lambda task: [[2]] * 5 + [[]]}, r"Prompt 5 .* at \[\]; expected one or more"),
        ({"wrong": lambda task: [[2, 5]] * 6}, r"Prompt 4 .* at \[2, 5\]; .* END at 5"),
        ({"wrong": lambda task: [[0, 2, 3]] * 6}, "2 tokens that are no option"),
        ({"wrong": lambda task: [[5, 6]] + [[1]] * 5}, r"Prompt 0 .* at \[5, 6\], among them the answer's own"),
        ({"n_random": -1}, "n_random=-1"),
    ],
    ids=["no arms", "no heads", "far", "no names", "name", "prompts", "empty", "behind", "few", "own", "draws"],
)
def test_slips_are_named(options, words):
    given = {"arms": {"one": "L1H0"}, "wrong": at_places, **QUIET, **options}
    with pytest.raises(ValueError, match=words):
        repair(scrambled("llama"), prompts(), **given)
