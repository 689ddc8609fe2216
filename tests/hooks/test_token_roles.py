"""Rows and columns of image tokens, against the pictures themselves: one patch is made bright, and the tokens whose
embedding changes most must be the ones that are said to show it."""

import pytest
import torch

from headlens.hooks.token_roles import ROLES, Grid, token_roles
from headlens.hooks.vision_columns import vision_columns
from tiny_vlms import BOS, END, IMAGE_TOKEN, PAD, PATCH, SEVERAL_PICTURES, SIDE, START, VLMS, held_vlm, tiny_vlm
from vlm_inputs import QWEN, continued, inputs_for_vlm, inputs_of, picture

# (rows, columns) of each level of the picture that `picture` makes, by architecture
GRIDS = {
    "llava": [(4, 4)],
    "llava_next": [(4, 4), (6, 8)],
    "llava_onevision": [(4, 4), (5, 5)],
    "qwen2_vl": [(2, 3)],
    "qwen2_5_vl": [(2, 4)],
    "qwen3_vl": [(3, 2)],
    "gemma3": [(2, 2)],
    "paligemma": [(4, 4)],
    "idefics3": [(2, 2), (2, 4)],
}


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def counts_of(name):
    return (2, 1) if name in SEVERAL_PICTURES else (1, 1)


def embedded(hf, inputs):
    """What the language model's first block reads, without the image encoder's attention: a patch then stays one."""
    kept = []
    layers = next(
        module for name, module in hf.named_modules() if name.endswith(("language_model.layers", "text_model.layers"))
    )
    handle = layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: kept.append((args or [kwargs["hidden_states"]])[0]), with_kwargs=True
    )
    hf(**inputs)
    handle.remove()
    return kept[0]


def without_attention(name):
    """The image encoder's heads say nothing, so that a token is made of its own patches alone."""
    hf = tiny_vlm(name)
    for layer in held_vlm(name).towers["vision"].layers:
        path = next(path for path, module in held_vlm(name).hf.named_modules() if module is layer.output_projection)
        torch.nn.init.zeros_(hf.get_submodule(path).weight)
    return hf


def brightened(image, box):
    top, left, bottom, right = (round(edge) for edge in box)
    bright = image.clone()
    bright[:, top:bottom, left:right] += 5
    return bright


SIZES = [(name, None, levels) for name, levels in GRIDS.items()]
SIZES += [("llava_next", (32, 24), [(4, 4), (8, 6)]), ("llava_onevision", (16, 32), [(4, 4), (4, 8)])]
SIZES += [("idefics3", (32, 48), [(2, 2), (4, 6)]), ("qwen2_5_vl", (24, 40), [(3, 5)])]


@pytest.mark.parametrize(("name", "size", "levels"), SIZES, ids=str)
def test_a_bright_cell_changes_the_token_that_is_said_to_show_it(name, size, levels):
    hf = without_attention(name)
    pictures = [[picture(name, 5, size), picture(name, 6, size)], [picture(name, 7, size)]]
    inputs = inputs_of(name, pictures)
    roles, before = token_roles(hf.config, inputs), embedded(hf, inputs)
    for prompt, image in ((0, 0), (0, 1), (1, 0)):
        alone = len(pictures[prompt]) == 1
        shown = levels if alone or name != "llava_onevision" else levels[:1]
        for level, (rows, columns) in enumerate(shown):
            positions = roles.patches(prompt, image, level)
            assert positions.shape == (rows, columns)
            whole = pictures[prompt][image]
            height, width = whole.shape[1] / rows, whole.shape[2] / columns
            # all cells of a small grid, and some of each row and column of a large one
            for cell in range(0, rows * columns, 1 if rows * columns <= 16 else 7):
                row, column = divmod(cell, columns)
                box = (row * height, column * width, (row + 1) * height, (column + 1) * width)
                changed = [list(each) for each in pictures]
                changed[prompt][image] = brightened(whole, box)
                moved = (embedded(hf, inputs_of(name, changed)) - before).norm(dim=-1)
                # nothing outside the picture moves, and no cell of this level moves more
                assert bool((moved[~((roles.image == image) & (torch.arange(2)[:, None] == prompt))] < 1e-5).all())
                own = torch.where(roles.level[prompt] == level, moved[prompt], 0.0)
                own = torch.where(roles.image[prompt] == image, own, 0.0)
                assert int(own.argmax()) == int(positions[row, column]), (prompt, image, level, row, column)


@pytest.mark.parametrize("name", VLMS)
def test_every_position_has_a_role(name):
    config, inputs = held_vlm(name).hf.config, inputs_for_vlm(name, counts_of(name))
    ids, roles = inputs["input_ids"], token_roles(config, inputs)
    assert torch.equal(roles.of("image"), ids == IMAGE_TOKEN)
    assert (
        torch.equal(roles.of("padding"), inputs["attention_mask"] == 0)
        and not (roles.of("padding") & (ids != PAD)).any()
    )
    marks = {BOS, START, END} if name in (*QWEN, "gemma3") else {BOS}
    assert torch.equal(roles.of("special"), torch.isin(ids, torch.tensor([*marks])))
    assert torch.equal(roles.image >= 0, roles.of("image"))
    assert torch.equal(roles.of("text"), ~(roles.of("image") | roles.of("special") | roles.of("padding")))
    word = int(ids[0][roles.of("text")[0]][0])
    assert bool(token_roles(config, inputs, special=[word]).of("special")[ids == word].all())


@pytest.mark.parametrize("name", VLMS)
def test_a_batch_is_its_prompts_behind_padding(name):
    config, counts = held_vlm(name).hf.config, counts_of(name)
    together = token_roles(config, inputs_for_vlm(name, counts))
    for prompt, count in enumerate(counts):
        inputs = inputs_for_vlm(name, (count,), seed=1 + prompt)
        alone, padding = token_roles(config, inputs), int(together.of("padding")[prompt].sum())
        for field in ("roles", "image", "level", "row", "column"):
            assert torch.equal(getattr(together, field)[prompt, padding:], getattr(alone, field)[0])
        moved = [Grid(g.image, g.rows, g.columns, g.start + padding, g.level) for g in alone.grids[0]]
        assert [*together.grids[prompt]] == moved


@pytest.mark.parametrize("name", VLMS)
def test_generated_tokens_are_text_and_nothing_moves(name):
    config, inputs = held_vlm(name).hf.config, inputs_for_vlm(name, counts_of(name))
    roles = token_roles(config, inputs)
    longer = token_roles(config, continued(name, inputs, torch.full((2, 3), 50)))
    for field in ("roles", "image", "level", "row", "column"):
        assert torch.equal(getattr(roles.extended(3), field), getattr(longer, field))
    assert roles.extended(3).grids == longer.grids == roles.grids


def test_text_alone_and_a_text_model_have_no_pictures():
    for name in SEVERAL_PICTURES:
        roles = token_roles(held_vlm(name).hf.config, inputs_for_vlm(name, (0,)))
        assert roles.grids == ((),) and not roles.of("image").any() and roles.roles.tolist() == [[2, 0, 0, 0, 0, 0, 0]]
    text = held_vlm("llava").hf.config.text_config
    assert not token_roles(text, {"input_ids": torch.tensor([[BOS, IMAGE_TOKEN, 7]])}).of("image").any()


def test_newlines_and_queries_are_image_tokens_without_cells():
    roles = token_roles(held_vlm("llava_next").hf.config, inputs_for_vlm("llava_next"))
    no_cell = roles.of("image")[0] & (roles.row[0] < 0)
    # the last of each row of the tiled picture
    assert no_cell.nonzero()[:, 0].tolist() == [int(row[-1]) + 1 for row in roles.patches(0, level=1)]
    assert roles.grids[0] == (Grid(0, 4, 4, 3), Grid(0, 6, 8, 19, level=1))
    roles = token_roles(held_vlm("instructblip").hf.config, inputs_for_vlm("instructblip"))
    assert int(roles.of("image").sum()) == 5 and bool((roles.row < 0).all()) and roles.grids == ((),)
    with pytest.raises(ValueError, match=r"Prompt 0 has no picture 0 with cells at level 0; with cells it has none\."):
        roles.patches(0)


@pytest.mark.parametrize("size", [(32, 12), (9, 32), (32, 30), (16, 32), (20, 20), (32, 5)])
@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_a_tiled_picture_has_as_many_tokens_as_the_model_makes(name, size):
    hf = tiny_vlm(name)
    given = {"pixel_values": torch.randn(1, 5, 3, SIDE, SIDE), "image_sizes": torch.tensor([size])}
    (features,) = hf.get_image_features(**given).pooler_output
    inputs = {**given, "input_ids": torch.tensor([[BOS, *[IMAGE_TOKEN] * len(features), 9]])}
    assert len(hf(**inputs).logits[0]) == len(features) + 2
    roles = token_roles(hf.config, inputs)
    newline = hf.model.image_newline
    is_newline = (features == newline).all(-1)
    assert torch.equal(is_newline, roles.row[0, 1:-1] < 0)
    wrong = {**inputs, "input_ids": torch.cat([inputs["input_ids"], torch.tensor([[IMAGE_TOKEN]])], 1)}
    with pytest.raises(ValueError, match=r"Prompt 0 has \d+ image tokens, and the pictures that are left have \[\d+\]"):
        token_roles(hf.config, wrong)


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("columns", [1, 2, 3])
def test_tiles_are_told_by_the_tokens_between_them(rows, columns):
    inputs = inputs_of("idefics3", [[picture("idefics3", 1, (rows * SIDE, columns * SIDE)), picture("idefics3", 2)]])
    roles = token_roles(held_vlm("idefics3").hf.config, inputs)
    sizes = [(2, 2)] if rows * columns == 1 else [(2, 2), (2 * rows, 2 * columns)]
    assert [(g.rows, g.columns) for g in roles.grids[0] if g.image == 0] == sizes
    assert [(g.rows, g.columns) for g in roles.grids[0] if g.image == 1] == [(2, 2), (2, 4)]
    with pytest.raises(ValueError, match="are not those of Idefics3's processor"):
        token_roles(
            held_vlm("idefics3").hf.config,
            {
                "input_ids": inputs["input_ids"]
                .masked_fill(inputs["input_ids"] == 91, 7)
                .index_fill(1, torch.tensor([3]), 8)
            },
        )


@pytest.mark.parametrize("name", GRIDS)
def test_columns_of_the_image_encoder_are_patches(name):
    model, size = held_vlm(name), {"qwen2_5_vl": (24, 40)}.get(name)
    one, other = picture(name, 1, size), picture(name, 2)
    inputs = inputs_of(name, [[one, other]])

    def rows_of(inputs):
        kept = model.record(inputs, names_filter=["vision.blocks.0.hook_resid_pre"])[1]
        return kept["vision.blocks.0.hook_resid_pre"]

    before = rows_of(inputs)
    grid = inputs.get("image_grid_thw")
    places = vision_columns(model.hf.config, before.shape[1], grid)
    if grid is None:
        # tiles are pictures of their own; the whole one is first, or for Idefics3 behind two tiles
        tile = 2 if name == "idefics3" else 0
        tops, lefts = one.shape[1] / 4, one.shape[2] / 4
        assert places[0].shape == (4, 4)
    else:
        tile, tops, lefts = 0, PATCH, PATCH
        assert [each.numel() for each in places] == grid.prod(-1).tolist()
        assert torch.equal(torch.cat([each.flatten() for each in places]).sort()[0], torch.arange(before.shape[1]))
    for row, column in ((0, 0), (1, 3), (3, 2)):
        box = (row * tops, column * lefts, (row + 1) * tops, (column + 1) * lefts)
        moved = (rows_of(inputs_of(name, [[brightened(one, box), other]])) - before).norm(dim=-1)
        assert int(moved[tile].argmax()) == int(places[0][row, column])
    if len(places) > 1:
        moved = (rows_of(inputs_of(name, [[one, brightened(other, (4, 8, 8, 12))]])) - before).norm(dim=-1)
        assert moved[0].nonzero().flatten().tolist() == [int(places[1][1, 2])]


def test_what_cannot_be_told_is_refused():
    config, inputs = held_vlm("qwen2_vl").hf.config, inputs_for_vlm("qwen2_vl")
    assert ROLES == ("text", "image", "special", "padding")
    with pytest.raises(ValueError, match="needs input_ids"):
        token_roles(config, {"inputs_embeds": torch.zeros(1, 3, 32)})
    with pytest.raises(ValueError, match="still pictures, and pixel_values_videos"):
        token_roles(config, {**inputs, "pixel_values_videos": torch.zeros(1)})
    with pytest.raises(ValueError, match="picture of 2 frames"):
        token_roles(config, {**inputs, "image_grid_thw": torch.tensor([[2, 2, 6]])})
    with pytest.raises(ValueError, match="1 pictures more were given than the prompts have image tokens for"):
        token_roles(config, {**inputs, "image_grid_thw": torch.cat([inputs["image_grid_thw"]] * 2)})
    with pytest.raises(ValueError, match=r"hold 3 image tokens, and each picture of this model has 4"):
        token_roles(held_vlm("gemma3").hf.config, {"input_ids": torch.tensor([[IMAGE_TOKEN] * 3])})
    with pytest.raises(ValueError, match="how it lays them out is not known"):
        token_roles(
            held_vlm("llava").hf.config, {"input_ids": torch.tensor([[IMAGE_TOKEN]]), "image_sizes": torch.ones(1, 2)}
        )
    with pytest.raises(ValueError, match="Unknown role 'picture'"):
        token_roles(config, inputs).of("picture")
    with pytest.raises(ValueError, match="4 x 4 patches was said to have 40 positions"):
        vision_columns(held_vlm("llava").hf.config, 40)
    with pytest.raises(ValueError, match="need image_grid_thw too"):
        vision_columns(config, 24)
    with pytest.raises(ValueError, match=r"have 24 patches, and n_positions=25"):
        vision_columns(config, 25, inputs["image_grid_thw"])
