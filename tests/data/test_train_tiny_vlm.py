"""The training of tiny-vlm: what it is taught is true, and a short course makes it better, the same each time."""

import pytest
import torch

from headlens.analyses.vision.scenes.scene_questions import describe
from headlens.analyses.vision.scenes.scenes import GRID, NOUNS, PARTED, PRIOR, draw_scenes
from headlens.data.train_tiny_vlm import ASKED, BATCH, MIXTURE, TRAINING_SEEDS, Lessons, pixels_of, train, true_patches

IMAGES = GRID**2


def lessons_and_scenes(kind, seed=3, world=PRIOR):
    lessons = Lessons(world, seed)
    return lessons.tokenizer, lessons.batch(kind), draw_scenes(BATCH, TRAINING_SEEDS + seed, world)


def texts_and_answers(tokenizer, batch):
    """Each row's words, and where labels are, without padding."""
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        assert torch.equal(labels[labels >= 0], ids[labels >= 0])
        assert not (labels == tokenizer.pad_token_id).any()
        pieces = tokenizer.convert_ids_to_tokens(ids)
        yield (
            [piece for piece in pieces if piece not in ("<pad>", "<image>", "<bos>")],
            tokenizer.decode(ids[labels >= 0]),
        )


@pytest.mark.parametrize("kind", ["questions", "blind questions"])
def test_answers_to_questions_are_true_of_their_scene(kind):
    tokenizer, batch, scenes = lessons_and_scenes(kind)
    for (words, answers), scene in zip(texts_and_answers(tokenizer, batch), scenes, strict=True):
        asked = [words[at : at + 6] for at in range(0, len(words), 6)]
        assert len(asked) == ASKED and len({one[3] for one in asked}) == ASKED
        assert all(one[:3] == ["is", "there", "a"] and one[4] == "?" for one in asked)
        assert (
            [one[5] for one in asked] == ["yes" if one[3] in scene.nouns else "no" for one in asked] == answers.split()
        )
        assert answers.count("yes") == min(ASKED // 2, len(scene.nouns))


@pytest.mark.parametrize("kind", ["descriptions", "blind descriptions"])
def test_descriptions_are_those_of_their_scene(kind):
    tokenizer, batch, scenes = lessons_and_scenes(kind, world=PARTED)
    for (words, answers), scene in zip(texts_and_answers(tokenizer, batch), scenes, strict=True):
        assert words[0] == "describe" and answers == f"{describe(scene)} <eos>" == " ".join(words[1:])


@pytest.mark.parametrize("kind", [*MIXTURE])
def test_only_those_who_see_get_pictures_and_image_tokens(kind):
    tokenizer, batch, scenes = lessons_and_scenes(kind)
    images = (batch["input_ids"] == tokenizer.convert_tokens_to_ids("<image>")).sum(1)
    assert (images == (0 if kind.startswith("blind") else IMAGES)).all()
    assert ("pixel_values" in batch) != kind.startswith("blind")
    if "pixel_values" in batch:
        assert torch.equal(batch["pixel_values"], pixels_of(scenes))


def test_no_scene_is_seen_twice_and_kinds_come_in_their_shares():
    lessons = Lessons(PRIOR, 0)
    seen = [scene.draw for _ in range(3) for scene in lessons.scenes()]
    assert len({*seen}) == 3 * BATCH
    kinds = lessons.kinds()
    drawn = [next(kinds) for _ in range(3000)]
    assert all(abs(drawn.count(kind) / 3000 - share) < 0.03 for kind, share in MIXTURE.items())


def test_patches_are_named_where_objects_are():
    scenes = draw_scenes(20, 9)
    truth = true_patches(scenes)
    for row, scene in zip(truth.tolist(), scenes, strict=True):
        assert {cell: NOUNS[noun] for cell, noun in enumerate(row) if noun >= 0} == {
            cell: noun for noun, cell in scene.cells.items()
        }


@pytest.mark.slow
def test_a_short_course_teaches_and_is_the_same_each_time():
    short = {"patches": 60, "words": 20, "text": 20, "both": 3}
    first, losses = train(1, steps=short)
    again, same = train(1, steps=short)
    assert losses == same
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), again.parameters(), strict=True))
    _, start = train(1, steps={"patches": 5, "words": 5, "text": 5, "both": 1})
    assert all(losses[part] < start[part] for part in ("patches", "words", "text"))
    assert not first.training and all(parameter.requires_grad for parameter in first.parameters())
