"""POPE of the bundled model against its logits by transformers' own eager attention, one prompt at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import headlens
from headlens.analyses.vision.measures.pope import pope, word_tokens
from headlens.analyses.vision.scenes.scene_samples import scene_descriptions, scene_questions
from headlens.analyses.vision.scenes.scenes import PARTED
from headlens.hooks.edits import Gate
from headlens.hooks.model import wrap
from tiny_models import tiny


@pytest.fixture(scope="module")
def model():
    return headlens.load("tiny-vlm", device="cpu")


@pytest.fixture(scope="module")
def samples(model):
    return scene_questions(model, 5, seed=3, negatives="adversarial", world=PARTED)


def plain(model, inputs, silenced=None):
    """Logits at the last token, with one head (layer, head) silenced by a hook on the output projection."""
    handles = []
    if silenced is not None:
        layer, head = silenced

        def silence(module, args):
            z = args[0].clone()
            z[..., head * model.d_head : (head + 1) * model.d_head] = 0
            return (z,)

        projection = model.hf.model.language_model.layers[layer].self_attn.o_proj
        handles.append(projection.register_forward_pre_hook(silence))
    with torch.no_grad():
        logits = model.hf(**inputs).logits[0, -1]
    for handle in handles:
        handle.remove()
    return logits


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_margins_are_those_of_plain_runs(model, samples, batch):
    found = pope(model, samples, batch=batch)
    yes, no = (model.tokenizer.tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    logits = torch.stack([plain(model, inputs) for inputs in samples.inputs])
    assert found.margins == pytest.approx((logits[:, yes] - logits[:, no]).numpy(), abs=1e-4)
    assert found.valid.tolist() == [int(at) in (yes, no) for at in logits.argmax(-1)]
    assert found.truth.tolist() == [answer == "yes" for answer in samples.answers]
    assert found.clusters == samples.clusters and found.provenance["n_samples"] == len(samples)


def test_edits_act_and_each_batch_has_its_own(model, samples):
    found = pope(model, samples, under=[Gate("L2H3", 0.0)])
    own = pope(model, samples, under=lambda indices: [Gate("L2H3", 0.0)] if indices == [2] else [], batch=1)
    yes, no = (model.tokenizer.tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    for at, inputs in enumerate(samples.inputs):
        silent, usual = (plain(model, inputs, head) for head in [(2, 3), None])
        assert found.margins[at] == pytest.approx(float(silent[yes] - silent[no]), abs=1e-4)
        used = silent if at == 2 else usual
        assert own.margins[at] == pytest.approx(float(used[yes] - used[no]), abs=1e-4)
    assert np.abs(found.margins - pope(model, samples).margins).max() > 0.5


def test_every_spelling_of_a_word_counts(model):
    class Spelling:
        all_special_ids = (7,)
        words = ("yes", " Yes", "YES\n", "yesterday", "eyes", "yes.", " no", "<yes>")
        tokenizer = None

        def get_vocab(self):
            return {word: at for at, word in enumerate(self.words)}

        def decode(self, ids):
            return self.words[ids[0]]

    assert word_tokens(model, "yes") == [10] and word_tokens(model, "no") == [11]
    from headlens.analyses.vision.measures import pope as home

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(home, "tokenizer_of", lambda _: Spelling())
        assert word_tokens(model, "yes") == [0, 1, 2] and word_tokens(model, "no") == [6]
        with pytest.raises(ValueError, match="no single token for 'maybe'"):
            word_tokens(model, "maybe")


def test_spellings_are_added_as_probabilities(model, samples, monkeypatch):
    from headlens.analyses.vision.measures import pope as home

    monkeypatch.setattr(home, "word_tokens", lambda _, word: {"yes": [10, 20], "no": [11]}[word])
    found = pope(model, samples)
    odds = [plain(model, inputs).double().softmax(-1) for inputs in samples.inputs]
    assert found.margins == pytest.approx([float(((p[10] + p[20]) / p[11]).log()) for p in odds], abs=1e-4)


def test_what_is_no_yes_or_no_question_is_refused(model, samples):
    with pytest.raises(ValueError, match="answer of sample 0 is 'there is"):
        pope(model, scene_descriptions(model, 2))
    with pytest.raises(ValueError, match="no samples"):
        pope(model, samples.subset([]))
    with pytest.raises(ValueError, match="batch=0"):
        pope(model, samples, batch=0)
    with pytest.raises(ValueError, match="has no tokenizer"):
        pope(wrap(tiny("llava")), samples)
    with pytest.raises(ValueError, match="has no tokenizer"):
        pope(replace(model, tokenizer=None), samples)
