"""Names of sites and heads."""

import pytest

from headlens.hooks.sites import SITE_AXES, Head, Site, parse_head, parse_heads, parse_site


@pytest.mark.parametrize("name", SITE_AXES)
@pytest.mark.parametrize("tower", ["main", "vision"])
def test_a_site_name_reads_back(name, tower):
    site = Site(name, 13, tower)
    assert parse_site(str(site)) == site


def test_site_names_are_transformer_lens_names():
    from transformer_lens.utilities.components_utils import get_act_name

    for name in SITE_AXES:
        assert str(Site(name, 7)) == get_act_name(name, 7)


@pytest.mark.parametrize("label", ["L23H3", "23.3", (23, 3), Head(23, 3)], ids=str)
def test_a_head_is_read_in_every_form(label):
    assert parse_head(label) == Head(23, 3)
    assert str(parse_head(label)) == "L23H3"


def test_heads_are_checked_against_the_model():
    assert parse_heads("all", 2, 3)[-1] == Head(1, 2)
    assert parse_heads(["L0H1", (1, 2)], 2, 3) == (Head(0, 1), Head(1, 2))
    with pytest.raises(ValueError, match=r"L40H2 does not exist: the model has layers L0\.\.L29"):
        parse_heads("L40H2", 30, 9)
    with pytest.raises(ValueError, match="'L2' is not a head"):
        parse_heads("L2", 30, 9)


@pytest.mark.parametrize("name", ["blocks.0.attn.hook_patern", "blocks.x.attn.hook_z", "blocks.0.hook_z", "z"])
def test_an_unknown_site_is_refused(name):
    with pytest.raises(ValueError, match=r"did you mean|is not a hook name"):
        parse_site(name)
