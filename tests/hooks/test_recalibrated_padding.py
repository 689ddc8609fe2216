"""Under a recalibration, too, a prompt in a batch, padded on either side, gives what it gives alone."""

import pytest
import torch

from headlens.hooks.groups import First, Massive, TokenIds
from headlens.hooks.norm_gate import NormGate
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.report import Report
from headlens.hooks.row_edits import ForceRow, KnockOut, Temperature
from headlens.hooks.sink_rule import SinkRule
from tiny_models import GENERATING, held, inputs_for

SHORT = 8


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def sinks(mode):
    rule = SinkRule(mode, alpha=1.2, min_rows=2, min_share=0.1)
    return Recalibrate("all", donors=rule, receivers="rest", beta=0.2, policy="transfer")


# Each of the shift of both prompts, by how many places padding moved them.
EDITS = {
    "first": lambda shift: Recalibrate("all", {"a": First(2)}, {"a": 0.2}),
    "positions": lambda shift: Recalibrate(
        "all", {"a": torch.tensor([[1, 4], [2, 3]]) + torch.tensor(shift)[:, None]}, {"a": 0.1}
    ),
    "one_row": lambda shift: Recalibrate("all", {"a": "first"}, {"a": 0.1}, pos=[5 + shift[0], 4 + shift[1]]),
    "tokens": lambda shift: Recalibrate("all", {"a": TokenIds(tuple(range(0, 120, 2)))}, {"a": 0.1}),
    "massive": lambda shift: Recalibrate("all", {"a": Massive((0, 3), above=1.2)}, {"a": 0.1}),
    "causal_column": lambda shift: sinks("causal_column"),
    "row": lambda shift: sinks("row"),
    "prefill_column": lambda shift: sinks("prefill_column"),
    "temperature": lambda shift: Temperature("all", 1.5),
    "knock_out": lambda shift: KnockOut("all", groups=First(1), pos=[5 + shift[0], 4 + shift[1]]),
    "force_row": lambda shift: ForceRow(
        "all", [5 + shift[0], 4 + shift[1]], torch.tensor([[4], [3]]) + torch.tensor(shift)[:, None]
    ),
    "norm_gate": lambda shift: NormGate(0.5),
}


def padded(name, side):
    """Prompts of 13 and 8 tokens, the short one padded; their mask, and how far each was moved."""
    ids = inputs_for(name, length=13)["input_ids"].clone()
    mask = torch.ones_like(ids)
    empty = slice(0, 13 - SHORT) if side == "left" else slice(SHORT, 13)
    short = ids[1, :SHORT].clone()
    ids[1], mask[1, empty] = 1, 0
    ids[1, mask[1].bool()] = short
    return ids, mask, [0, 13 - SHORT if side == "left" else 0]


def alone(edit, row):
    """The edit of one of both prompts, without padding."""
    made = EDITS[edit]([0, 0])
    pos = getattr(made, "pos", None)
    if pos is not None:
        object.__setattr__(made, "pos", pos[row])
    for name in ("groups", "keys"):
        groups = getattr(made, name, None)
        for group in groups.values() if isinstance(groups, dict) else [groups]:
            if getattr(getattr(group, "at", None), "ndim", 0) == 2:
                object.__setattr__(group, "at", group.at[row])
    return made


@pytest.mark.parametrize("name", [name for name in GENERATING if name not in ("qwen3", "phi3", "cohere")])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("edit", EDITS)
def test_a_padded_batch_gives_each_prompt_what_it_gets_alone(name, side, edit):
    if (name, edit) == ("gemma3", "norm_gate"):
        pytest.skip("its queries are all of one size")
    model = held(name)
    ids, mask, shift = padded(name, side)
    together = Report()
    with model.edited(EDITS[edit](shift), report=together):
        logits, cache = model.record(ids, attention_mask=mask, names_filter="pattern")
        torch.testing.assert_close(model(ids, attention_mask=mask)[mask.bool()], logits[mask.bool()], rtol=0, atol=1e-4)
    rows = 0
    for row in range(2):
        own, columns = ids[row : row + 1, mask[row].bool()], mask[row].nonzero().flatten()
        single = Report()
        with model.edited(alone(edit, row), report=single):
            expected, patterns = model.record(own, names_filter="pattern")
        torch.testing.assert_close(logits[row, columns], expected[0], rtol=0, atol=2e-4)
        for site, pattern in patterns.items():
            got = cache[site][row][:, columns][:, :, columns]
            torch.testing.assert_close(got, pattern[0], rtol=0, atol=2e-5)
        assert (expected - model(own)).abs().max() > 1e-3
        rows += sum(one.rows for one in single.heads.values())
    # the run was made twice; rows of padding are nobody's
    assert sum(one.rows for one in together.heads.values()) == 2 * rows


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("edit", ["first", "tokens", "massive", "causal_column"])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generation_of_a_left_padded_batch(name, edit, cache):
    model = held(name)
    ids, mask, shift = padded(name, "left")
    chosen = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 1}
    if cache == "static":
        chosen["cache_implementation"] = "static"
    with model.edited(EDITS[edit](shift)):
        together = model.hf.generate(input_ids=ids, attention_mask=mask, **chosen)
    for row in range(2):
        with model.edited(alone(edit, row)):
            own = model.hf.generate(input_ids=ids[row : row + 1, mask[row].bool()], **chosen)
        assert torch.equal(together[row, 13:], own[0, -4:])


def test_an_encoder_padded_at_the_end():
    model = held("bert")
    ids, mask, _ = padded("bert", "right")
    edit = Recalibrate("all", {"a": First(2)}, {"a": 0.2})
    with model.edited(edit):
        together = model(ids, attention_mask=mask)
    with model.edited(edit):
        own = model(ids[1:, :SHORT])
    torch.testing.assert_close(together[1, :SHORT], own[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_a_mask_given_by_position_counts(name):
    """Not every caller names it."""
    model = held(name)
    ids, mask, _ = padded(name, "right" if name != "llama" else "left")
    named = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    with model.edited(Recalibrate("all", {"a": First(2)}, {"a": 0.2})):
        expected = model.hf(**(named if name != "bert" else {"input_ids": ids, "attention_mask": mask})).logits
        between = (None,) if name == "gpt2" else ()
        got = model.hf(ids, *between, mask).logits
    torch.testing.assert_close(got[mask.bool()], expected[mask.bool()], rtol=0, atol=1e-5)
