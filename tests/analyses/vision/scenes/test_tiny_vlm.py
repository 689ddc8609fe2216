"""The model of scenes and its processor, as they lie in a folder."""

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

import headlens
from headlens.analyses.vision.scenes.scene_questions import words
from headlens.analyses.vision.scenes.scene_samples import scene_questions
from headlens.analyses.vision.scenes.tiny_vlm import tiny_model, tiny_processor, tiny_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model(4).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


def test_every_word_is_one_token_behind_a_beginning():
    tokenizer = tiny_tokenizer()
    for word in words():
        assert len(tokenizer(word, add_special_tokens=False)["input_ids"]) == 1
    ids = tokenizer("<image><image> is there a zebra ?")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<bos>", "<image>", "<image>", "is", "there", "a", "<unk>", "?"]
    assert tokenizer.decode(ids[3:]) == "is there a <unk> ?"


def test_it_is_small_and_shares_its_words():
    model = tiny_model()
    assert sum(parameter.numel() for parameter in model.parameters()) == 997_504
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.config.text_config.vocab_size == len(tiny_tokenizer())


def test_a_seed_gives_its_weights_and_takes_none_of_the_users_draws():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first, again, other = tiny_model(1), tiny_model(1), tiny_model(2)
    assert torch.equal(torch.rand(3), expected)
    pairs = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(one, same) for one, same in pairs)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_a_folder_loads_with_transformers_and_with_headlens(folder):
    model = headlens.load(folder, device="cpu")
    assert (model.n_layers, model.n_heads, model.d_head) == (4, 8, 16) and {*model.towers} == {"main", "vision"}
    sample = scene_questions(model, 1).inputs[0]
    theirs = AutoModelForImageTextToText.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.image_token == "<image>" and tokenizer.get_vocab() == tiny_tokenizer().get_vocab()
    with torch.no_grad():
        assert torch.allclose(theirs(**sample).logits, model(sample), atol=1e-5)


def test_attention_to_patches_is_edited_by_name(folder):
    model = headlens.load(folder, device="cpu")
    first, second = (scene_questions(model, 2).subset([at]).inputs[0] for at in (0, 6))
    # the same question of two pictures
    second = {**second, "input_ids": first["input_ids"]}
    assert not torch.allclose(model(first)[:, -1], model(second)[:, -1], atol=1e-3)
    unseen = headlens.Recalibrate(heads="all", groups={"seen": "image"}, multipliers={"seen": 0.0})
    with model.edited(unseen):
        assert torch.allclose(model(first)[:, -1], model(second)[:, -1], atol=1e-5)
