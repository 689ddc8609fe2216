"""What `find_sinks` returns: counts, mass, tables, words, and the very tokens as a group."""

from functools import partial

import numpy as np
import pytest
import torch
from transformers import DynamicCache, PreTrainedTokenizerFast

from headlens.analyses.sinks import find_sinks
from headlens.hooks.model import wrap
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.sink_rule import MODES
from tiny_models import held, inputs_for, tiny
from tiny_tokenizers import bpe

# Attention of the tiny models is spread over few keys, so that the paper's bound would find nothing.
LOOSE = {"alpha": 1.4, "min_rows": 3, "min_share": 0.15}
FIRST_LAYER = [f"L0H{head}" for head in range(4)]


def test_counts_mass_and_table_say_the_same_as_the_patterns():
    model, ids = held("gpt2"), inputs_for("gpt2", length=23)["input_ids"]
    sinks = find_sinks(model, ids, "causal_column", **LOOSE)
    _, kept = model.record(ids, names_filter="pattern")
    counts, mass, table = sinks.counts(), sinks.mass(), sinks.to_frame()
    assert counts.dims == mass.dims == ("layer", "head") and len(table) == sinks.flagged.sum()
    for layer in range(3):
        for head in range(4):
            for prompt in range(2):
                at = sinks.positions(layer, head, prompt)
                own = table.query("layer == @layer and head == @head and prompt == @prompt")
                assert own["pos"].tolist() == at and counts.samples[prompt, layer, head] == len(at)
                assert own["label"].tolist() == [f"L{layer}H{head}@{pos}" for pos in at]
                rows = kept[f"blocks.{layer}.attn.hook_pattern"][prompt, head][:, at].sum(-1)
                assert mass.samples[prompt, layer, head] == pytest.approx(float(rows.mean()), abs=1e-6)
                assert own["times"].gt(1).all() and own["share"].between(0, 1, inclusive="right").all()
                assert own["received"].tolist() == [sinks.received[prompt, layer, head, pos] for pos in at]
    assert 0 not in table["pos"].values
    assert counts.provenance["rule"] == {"mode": "causal_column", "first": False, **LOOSE}


@pytest.fixture(scope="module")
def talking():
    """A model of the words of the sentences, and a prompt of them."""
    hf = tiny("llama")
    hf.resize_token_embeddings(1500, mean_resizing=False)
    torch.nn.init.normal_(hf.get_input_embeddings().weight, std=0.25)
    return wrap(hf, bpe()), "Then Mary, John and Mary went to the store.\nThen John gave a drink to Mary, and"


def test_every_token_has_its_text_and_kind(talking):
    model, text = talking
    sinks = find_sinks(model, text, "row", **LOOSE)
    assert "".join(sinks.texts[0]) == text and sinks.real.all()
    table = sinks.prompts.to_frame()
    assert table["token"].tolist() == [*sinks.texts[0]]
    by_text = table.drop_duplicates("token").set_index("token")
    assert by_text.loc[[",", ".", "\n", " to"], "kind"].tolist() == ["punctuation", "punctuation", "newline", "word"]
    expected = [
        text in sinks.texts[0][at + 1 :] and text not in sinks.texts[0][:at] for at, text in enumerate(sinks.texts[0])
    ]
    assert table["first_repeat"].tolist() == expected and 2 < sum(expected) < len(expected) / 2


def test_the_kinds_add_up(talking):
    model, text = talking
    sinks = find_sinks(model, text, "row", **LOOSE)
    table, kinds = sinks.to_frame(), sinks.by_kind().set_index("kind")
    tokens = sinks.prompts.to_frame().iloc[1:]
    usual = lambda frame: frame["kind"].isin(["punctuation", "newline"]) | frame["first_repeat"]  # noqa: E731
    for kind in ("word", "punctuation", "newline"):
        assert kinds.loc[kind, "sinks"] == (table["kind"] == kind).sum()
        assert kinds.loc[kind, "of_tokens"] == pytest.approx((tokens["kind"] == kind).mean())
    assert kinds.loc["first_repeat", "sinks"] == table["first_repeat"].sum()
    assert kinds.loc["usual", ["of_sinks", "of_tokens"]].tolist() == pytest.approx(
        [usual(table).mean(), usual(tokens).mean()]
    )
    said = sinks.described()
    assert f"{len(table)} of {(len(sinks.texts[0]) - 1) * 12} (layer, head, token) triples are sinks" in said
    assert f"{usual(table).mean():.0%} of them are punctuation" in said and "Most sinks a prompt" in said


def test_a_model_without_tokenizer_has_sinks_without_texts():
    sinks = find_sinks(held("llama"), inputs_for("llama", length=20)["input_ids"], **LOOSE)
    assert sinks.texts == () and set(sinks.to_frame()["token"]) == {""} and set(sinks.to_frame()["kind"]) == {None}
    assert sinks.by_kind()["kind"].tolist() == ["first_repeat", "usual"]
    assert "sinks" in sinks.described()


def test_nothing_found_is_said():
    sinks = find_sinks(held("llama"), inputs_for("llama", length=20)["input_ids"], alpha=50.0)
    assert sinks.described().startswith("0 of 456 (layer, head, token) triples are sinks (0.00%; causal_column")
    assert len(sinks.to_frame()) == 0 and not sinks.mass().values.any() and sinks.by_kind()["of_sinks"].isna().all()


def test_what_was_found_can_be_fixed():
    model, ids = held("llama"), inputs_for("llama", length=20)["input_ids"]
    sinks = find_sinks(model, ids, "prefill_column", **LOOSE)
    transfer = partial(Recalibrate, policy="transfer", receivers="rest", beta=0.4)
    with torch.no_grad():
        # nothing comes before the first layer, and a rule finds the same there
        with model.edited(transfer(FIRST_LAYER, donors=sinks)):
            by_rule = model(ids)
        with model.edited(transfer(FIRST_LAYER, donors=sinks.fixed())):
            by_tokens = model(ids)
        # of two edited layers the second sees other attention, which the rule judges anew
        with model.edited(transfer("all", donors=sinks.fixed())):
            every = model(ids)
        at = {
            f"L{layer}H{head}": [torch.tensor([*sinks.positions(layer, head, prompt), 10**6]) for prompt in range(2)]
            for layer in range(3)
            for head in range(4)
        }
        padded = {
            head: torch.nn.utils.rnn.pad_sequence(own, batch_first=True, padding_value=10**6)
            for head, own in at.items()
        }
        with model.edited(*(transfer(head, donors=own) for head, own in padded.items() if (own < 20).any())):
            one_by_one = model(ids)
        assert not torch.allclose(by_rule, model(ids), atol=1e-3)
    torch.testing.assert_close(by_tokens, by_rule, rtol=0, atol=1e-5)
    torch.testing.assert_close(every, one_by_one, rtol=0, atol=1e-5)


def test_fixed_sinks_know_their_prompts():
    model, ids = held("llama"), inputs_for("llama", length=20)["input_ids"]
    fixed = find_sinks(model, ids, "prefill_column", **LOOSE).fixed()
    edit = Recalibrate("all", policy="transfer", donors=fixed, receivers="rest", beta=0.4)
    with torch.no_grad(), model.edited(edit):
        longer = model(torch.cat([ids, ids[:, :5]], 1))
        torch.testing.assert_close(model(ids), longer[:, :20], rtol=0, atol=1e-4)
        model(ids[:, :15])
        for other in (ids[:1], ids.flip(0), ids[:, 1:]):
            with pytest.raises(ValueError, match="found in 2 prompts, and a run of others"):
                model(other)
        with pytest.raises(ValueError, match="a run of others"):
            model(ids, attention_mask=torch.cat([torch.ones(2, 19, dtype=torch.int64), torch.tensor([[1], [0]])], 1))


def test_whole_prompts_are_asked_for():
    model, ids = held("llama"), inputs_for("llama", length=20)["input_ids"]
    cache = DynamicCache(config=model.hf.config)
    with torch.no_grad():
        model(ids[:, :5], past_key_values=cache)
    for mode in MODES:
        with pytest.raises(ValueError, match="cached decode step"):
            find_sinks(model, {"input_ids": ids[:, 5:], "past_key_values": cache}, mode)
    empty = {"input_ids": ids, "past_key_values": DynamicCache(config=model.hf.config)}
    assert np.array_equal(find_sinks(model, empty, **LOOSE).share, find_sinks(model, ids, **LOOSE).share)


def test_the_rule_is_checked_before_the_run():
    model, ids = held("llama"), inputs_for("llama")["input_ids"]
    with pytest.raises(ValueError, match="did you mean 'causal_column'"):
        find_sinks(model, ids, "causal_columns")
    with pytest.raises(ValueError, match="threshold=0.0"):
        find_sinks(model, ids, threshold=0.0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_are_run_with_their_padding(talking, side):
    words = PreTrainedTokenizerFast(tokenizer_object=bpe().backend_tokenizer, pad_token="<end>", padding_side=side)
    model = wrap(talking[0].hf, words)
    texts = [talking[1], "Then John went to the store and the restaurant"]
    together, alone = find_sinks(model, texts, **LOOSE), find_sinks(model, texts[1], **LOOSE)
    assert together.real.sum(1).tolist() == [len(words(text)["input_ids"]) for text in texts]
    np.testing.assert_allclose(together.share[1][..., together.real[1]], alone.share[0], atol=1e-6)


@pytest.mark.real
def test_most_heads_of_a_real_model_park_on_the_first_token(smollm2):
    text = (
        "The lighthouse keeper counted the ships, and the ships counted him.\nThen the fog came, and nobody counted. "
        * 2
    )
    sinks = find_sinks(smollm2, text, "prefill_column", first=True)
    assert sinks.flagged[0, :, :, 0].mean() > 0.8
    assert sinks.flagged[0, 12:, :, 0].mean() > 0.9
    later = find_sinks(smollm2, text, "prefill_column")
    assert not later.flagged[0, :, :, 0].any() and np.array_equal(later.flagged[..., 1:], sinks.flagged[..., 1:])


def test_a_decoder_s_own_padding_counts():
    model, inputs = held("t5"), inputs_for("t5", length=20)
    ids, mask = inputs["decoder_input_ids"], torch.ones_like(inputs["decoder_input_ids"])
    mask[1, 15:] = 0
    together = find_sinks(model, {**inputs, "decoder_attention_mask": mask}, **LOOSE)
    alone = find_sinks(model, {"input_ids": inputs["input_ids"][1:], "decoder_input_ids": ids[1:, :15]}, **LOOSE)
    np.testing.assert_allclose(together.share[1, ..., :15], alone.share[0], atol=1e-6)
    assert torch.equal(together.tokens, ids) and together.flagged[1].any() and not together.real[1, 15:].any()


def test_there_must_be_tokens():
    with pytest.raises(ValueError, match="no tokens to run on"):
        find_sinks(held("llama"), torch.zeros(0, 5, dtype=torch.int64))
