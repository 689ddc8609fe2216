"""What `head_stats` is asked for and answers: maps that say what they are, texts, groups of words, slips."""

from functools import partial

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from headlens.analyses.attention_statistics import head_stats
from headlens.analyses.headmap import HeadMap
from headlens.hooks.groups import First, Words
from headlens.hooks.model import wrap
from tiny_models import held, inputs_for, tiny

# Words come again, next to themselves and far apart.
IDS = torch.tensor([[7, 5, 9, 7, 7, 5, 30, 9, 7, 41, 5, 9, 8], [60, 61, 62, 60, 63, 64, 62, 62, 62, 65, 66, 60, 61]])


def test_a_map_says_what_it_is(tmp_path):
    found = head_stats(
        held("gpt2"), IDS, groups={"start": First(2), "mine": lambda block: block.keys[None, None, None] < 1}
    )
    assert [*found] == ["entropy", "first_token", "previous_token", "start", "mine"]
    entropy, start, mine = found["entropy"], found["start"], found["mine"]
    assert (entropy.dims, entropy.units, entropy.samples.shape) == (("layer", "head"), "nats", (2, 3, 4))
    np.testing.assert_allclose(entropy.values, entropy.samples.mean(0), rtol=1e-6)
    assert {"model", "weights_hash", "tokens_hash", "versions", "statistic"} <= {*entropy.provenance}
    assert (start.provenance["group"], mine.provenance["group"]) == ("First(n=2)", "<lambda>")
    both = [lambda block: block.keys[None, None, None] < 1, range(1200)]
    found = head_stats(held("gpt2"), IDS, (), groups={"both": both}, progress=False)
    assert found["both"].provenance["group"] == f"Either(<lambda>, Positions({[*range(1200)]}))"
    start.save(tmp_path / "start.safetensors")
    assert HeadMap.load(tmp_path / "start.safetensors").described() == start.described()


def test_texts_run_padded_and_groups_may_be_words():
    words = Tokenizer(models.WordLevel({f"w{index}": index for index in range(120)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", pad_token="w1", padding_side="left")
    model = wrap(tiny("llama"), tokenizer)
    measure = partial(head_stats, model, groups={"nines": Words("w9")}, progress=False)
    found, alone = measure(["w5 w9 w7 w8", "w9 w10"]), measure("w9 w10")
    for name, one in alone.items():
        np.testing.assert_allclose(found[name].samples[1], one.values, rtol=0, atol=1e-5)
    _, cache = model.record(torch.tensor([[5, 9, 7, 8]]), names_filter="pattern")
    nines = torch.cat([*cache.values()])[:, :, 1:, 1].mean(-1)
    np.testing.assert_allclose(found["nines"].samples[0], nines, rtol=0, atol=1e-5)


MASK = torch.ones(2, 13, dtype=torch.long)


@pytest.mark.parametrize(
    ("name", "tokens", "given", "says"),
    [
        ("llama", IDS, {"what": "entrpy"}, "Unknown statistic 'entrpy' (did you mean 'entropy'?)"),
        ("llama", IDS, {"what": ["entropy", "divergence"]}, "give the other run's prompts"),
        ("llama", IDS, {"other": IDS}, "name it in what="),
        ("llama", IDS, {"what": "divergence", "other": IDS[:, 1:]}, "tokens has input_ids [2, 13] and other has"),
        ("llama", IDS, {"what": "divergence", "other": IDS[:1]}, "other has input_ids [1, 13]"),
        ("llama", IDS, {"what": ()}, "nothing to measure"),
        ("llama", IDS, {"groups": {"entropy": 0}}, "called 'entropy' like a statistic"),
        ("llama", IDS, {"groups": {"dots": "punctuaton"}}, "did you mean 'punctuation'"),
        ("llama", IDS, {"groups": {"own": torch.zeros(3, 1, dtype=torch.long)}}, "positions for 3 prompts"),
        ("llama", IDS, {"batch": 0}, "batch=0"),
        ("llama", IDS[:, :0], {}, "no tokens"),
        ("llama", IDS[:0], {}, "no tokens"),
        (
            "llama",
            {"input_ids": IDS, "attention_mask": MASK * torch.tensor([[1], [0]])},
            {},
            "Prompt 1 is nothing but padding",
        ),
        ("llama", {"input_ids": IDS, "odd": torch.ones(3)}, {"batch": 1}, "odd has 3 entries for 2 prompts"),
        ("vit", inputs_for("vit"), {"what": "induction"}, "'induction' is about copies of tokens"),
    ],
)
def test_bad_input_is_told_in_a_sentence(name, tokens, given, says):
    with pytest.raises(ValueError) as told:
        head_stats(held(name), tokens, **{"progress": False, **given})
    assert says in str(told.value)


def test_runs_that_are_padded_differently_are_not_compared():
    left, right = MASK.clone(), MASK.clone()
    left[0, :2], right[0, -2:] = 0, 0
    one, two = ({"input_ids": IDS, "attention_mask": mask} for mask in (left, right))
    # the position ids that left padding brings are no reason of their own
    two["position_ids"] = torch.arange(13).expand(2, 13)
    with pytest.raises(ValueError, match="padded at different places"):
        head_stats(held("llama"), one, "divergence", other=two, progress=False)
