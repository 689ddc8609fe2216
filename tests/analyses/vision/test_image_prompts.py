"""Pictures and text as a model takes them, read from files and put through the model's own processor."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import headlens
from headlens.analyses.vision.image_prompts import image_prompt, open_picture
from headlens.analyses.vision.scenes.scene_pictures import draw_picture
from headlens.analyses.vision.scenes.scene_samples import scene_questions
from headlens.analyses.vision.scenes.scenes import draw_scenes

CHAT = (
    "{% for turn in messages %}{% for part in turn['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else ' ' + part['text'] }}{% endfor %}{% endfor %} describe"
)


@pytest.fixture(scope="module")
def model():
    return headlens.load("tiny-vlm", device="cpu")


@pytest.fixture
def pictures():
    return [draw_picture(scene) for scene in draw_scenes(2, 5)]


def test_a_scene_through_the_processor_is_the_scene_as_drawn(model, pictures):
    (expected,) = scene_questions(model, 1, seed=5).subset([0]).inputs
    text = "is there a " + scene_questions(model, 1, seed=5).facts[0]["noun"] + " ?"
    made = image_prompt(model, pictures[:1], text)
    assert torch.equal(made["pixel_values"], expected["pixel_values"])
    assert torch.equal(made["input_ids"], expected["input_ids"])
    assert torch.equal(model(made), model(expected))


def test_a_file_holds_the_same_pixels(tmp_path, pictures):
    Image.fromarray(pictures[0]).save(tmp_path / "a.png")
    assert np.array_equal(open_picture(tmp_path / "a.png"), pictures[0])


def test_clear_parts_become_white_and_grey_becomes_three_channels(tmp_path):
    clear = np.zeros((3, 5, 4), np.uint8)
    clear[0, 0] = (9, 8, 7, 255)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    read = open_picture(tmp_path / "clear.png")
    assert read.shape == (3, 5, 3) and read[0, 0].tolist() == [9, 8, 7] and (read[1:] == 255).all()
    Image.fromarray(np.full((4, 6), 77, np.uint8)).save(tmp_path / "grey.png")
    assert (open_picture(tmp_path / "grey.png") == np.full((4, 6, 3), 77)).all()


def test_a_photograph_lies_as_its_file_says(tmp_path):
    lying = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)
    tag = Image.Exif()
    tag[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(lying).save(tmp_path / "turned.png", exif=tag)
    assert np.array_equal(open_picture(tmp_path / "turned.png"), np.rot90(lying, -1))


def test_marks_in_the_text_stand_where_they_are(model, pictures):
    behind = image_prompt(model, pictures[:1], "describe <image>")
    ids = behind["input_ids"][0].tolist()
    image = model.hf.config.image_token_index
    assert ids[1] != image and ids[2:] == [image] * 36
    two = image_prompt(model, pictures, "describe")
    assert two["pixel_values"].shape == (2, 3, 48, 48) and two["input_ids"][0].tolist().count(image) == 72
    with pytest.raises(ValueError, match="1 marks '<image>' for 2 pictures"):
        image_prompt(model, pictures, "<image> describe")


def test_text_alone_is_a_prompt_without_pictures(model):
    made = image_prompt(model, [], "is there a cup ?")
    assert {*made} == {"input_ids", "attention_mask"} and made["input_ids"].shape == (1, 6)


def test_a_chat_template_makes_the_users_turn(model, pictures):
    from headlens.analyses.vision.scenes.tiny_vlm import tiny_processor

    processor = tiny_processor()
    processor.chat_template = CHAT
    made = image_prompt(replace(model, tokenizer=processor), pictures[:1], "is there a cup ?")
    words = processor.tokenizer.convert_ids_to_tokens(made["input_ids"][0])
    assert [word for word in words if word not in ("<image>", "<bos>")] == [*"is there a cup ? describe".split()]
    assert words.count("<image>") == 36


def test_what_is_no_picture_is_refused(tmp_path, model, pictures):
    (tmp_path / "a.png").write_text("words")
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        open_picture(tmp_path / "a.png")
    with pytest.raises(OSError, match="No such file"):
        open_picture(tmp_path / "none.png")
    with pytest.raises(ValueError, match="without an image processor"):
        image_prompt(replace(model, tokenizer=model.tokenizer.tokenizer), pictures[:1], "is there a cup ?")
