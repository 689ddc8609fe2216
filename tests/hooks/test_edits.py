"""Every edit on every architecture: it reaches the output, does what it says, and is gone afterwards."""

import re

import numpy as np
import pytest
import torch

from headlens.hooks.edits import Ablate, Call, Gate, Patch
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.row_edits import ForceRow, KnockOut, Temperature
from headlens.hooks.sites import ATTENTION_SITES, SITE_AXES
from tiny_models import HELD, held, inputs_for
from untyped import untyped


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def other_run(model, name, site):
    return model.record(inputs_for(name, seed=2), names_filter=site)[1]


def z_by_hook(model, layer, head, replacement, inputs):
    """The same patch written with a plain torch hook on the output projection."""

    def hook(module, args):
        z = args[0].clone()
        z[..., head * model.d_head : (head + 1) * model.d_head] = replacement
        return (z,)

    handle = model.layers[layer].output_projection.register_forward_pre_hook(hook)
    try:
        return model(inputs)
    finally:
        handle.remove()


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("site", SITE_AXES)
def test_an_edit_of_every_site_reaches_the_output(name, site):
    model, inputs = held(name), inputs_for(name)
    if not model.layers[0].has(site):
        pytest.skip(f"{name} has no {site}: parallel block")
    with model.edited(
        Call(
            f"blocks.0.{'attn.' if site in (*ATTENTION_SITES, 'result') else ''}hook_{site}",
            lambda t, hook: t.flip(-1),
        )
    ):
        edited = model(inputs)
    assert (edited - model(inputs)).abs().max() > 1e-3


@pytest.mark.parametrize("name", HELD)
def test_patching_z_equals_a_plain_hook(name):
    model, inputs = held(name), inputs_for(name)
    source = other_run(model, name, "z")
    with model.edited(Patch("L1H2", source)):
        edited = model(inputs)
    expected = z_by_hook(model, 1, 2, source["blocks.1.attn.hook_z"][:, :, 2], inputs)
    torch.testing.assert_close(edited, expected, rtol=0, atol=2e-5)
    assert (edited - model(inputs)).abs().max() > 1e-3


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("site", ["z", "rot_q", "rot_k", "v", "pattern", "attn_scores", "result"])
def test_patching_a_run_with_itself_changes_nothing(name, site):
    model, inputs = held(name), inputs_for(name)
    plain, own = model.record(inputs, names_filter=site)
    with model.edited(Patch([(layer, 1) for layer in range(3)], own, site=site)):
        torch.testing.assert_close(model(inputs), plain, rtol=0, atol=3e-5)


@pytest.mark.parametrize("name", HELD)
def test_gate_and_ablate(name):
    model, inputs = held(name), inputs_for(name)
    plain = model(inputs)
    silenced = z_by_hook(model, 0, 3, 0.0, inputs)
    for edit in (Gate("L0H3", 0.0), Ablate("L0H3", how="zero")):
        with model.edited(edit):
            torch.testing.assert_close(model(inputs), silenced, rtol=0, atol=2e-5)
    with model.edited(Gate("L0H3", 1.0)):
        torch.testing.assert_close(model(inputs), plain, rtol=0, atol=2e-5)
    with model.edited(Gate("L0H3", 2.0), Gate("L0H3", 0.5)):
        torch.testing.assert_close(model(inputs), plain, rtol=0, atol=2e-5)


@pytest.mark.parametrize("how", ["mean", "mean_positional", "resample"])
def test_ablation_by_a_reference_run(how):
    model, inputs = held("llama"), inputs_for("llama")
    reference = other_run(model, "llama", "z")
    z = reference["blocks.2.attn.hook_z"][:, :, 1]  # prompt pos d_head
    with model.edited(Ablate("L2H1", how=how, reference=reference)):
        edited = model(inputs)
    draw = torch.randint(2, (2,), generator=torch.Generator().manual_seed(0))
    replacement = {"mean": z.mean((0, 1)), "mean_positional": z.mean(0), "resample": z[draw]}[how]
    torch.testing.assert_close(edited, z_by_hook(model, 2, 1, replacement, inputs), rtol=0, atol=2e-5)


def test_positions_are_per_prompt():
    model, inputs = held("llama"), inputs_for("llama")
    source = other_run(model, "llama", "z")
    replacement = model.record(inputs, names_filter="z")[1]["blocks.1.attn.hook_z"][:, :, 2].clone()
    for prompt, pos in enumerate([7, 3]):
        replacement[prompt, pos] = source["blocks.1.attn.hook_z"][prompt, pos, 2]
    with model.edited(Patch("L1H2", source, pos=[7, 3])):
        edited = model(inputs)
    torch.testing.assert_close(edited, z_by_hook(model, 1, 2, replacement, inputs), rtol=0, atol=2e-5)


def test_grouped_queries_share_a_key_value_head():
    model, inputs = held("llama"), inputs_for("llama")
    _, plain = model.record(inputs, names_filter="z")
    with model.edited(Ablate("L0H1", site="v")):
        _, edited = model.record(inputs, names_filter="z")
    changed = (edited["blocks.0.attn.hook_z"] != plain["blocks.0.attn.hook_z"]).any(-1).any(0).any(0)
    assert changed.tolist() == [False, False, True, True]
    with (
        pytest.raises(ValueError, match=r"L0H2 does not exist: .* heads H0\.\.H1"),
        model.edited(Ablate("L0H2", site="v")),
    ):
        pass


def test_patched_rows_of_a_pattern():
    model, inputs = held("gpt2"), inputs_for("gpt2")
    source = other_run(model, "gpt2", "pattern")
    with model.edited(Patch("L1H0", source, site="pattern", pos=6)):
        _, edited = model.record(inputs, names_filter="pattern")
    _, plain = model.record(inputs, names_filter="pattern")
    rows = edited["blocks.1.attn.hook_pattern"]
    torch.testing.assert_close(rows[:, 0, 6], source["blocks.1.attn.hook_pattern"][:, 0, 6], rtol=0, atol=0)
    torch.testing.assert_close(rows[:, 0, :6], plain["blocks.1.attn.hook_pattern"][:, 0, :6], rtol=0, atol=1e-6)
    torch.testing.assert_close(rows[:, 1:], plain["blocks.1.attn.hook_pattern"][:, 1:], rtol=0, atol=1e-6)


def test_hooks_have_transformer_lens_form():
    model, inputs = held("gpt2"), inputs_for("gpt2")
    seen = []

    def in_place(tensor, hook):
        seen.append((hook.name, hook.layer()))
        hook.ctx["calls"] = hook.ctx.get("calls", 0) + 1
        tensor[:, :, 2] = 0

    edited = model.run_with_hooks(inputs, fwd_hooks=[("blocks.1.attn.hook_z", in_place)])
    assert seen == [("blocks.1.attn.hook_z", 1)]
    torch.testing.assert_close(edited, z_by_hook(model, 1, 2, 0.0, inputs), rtol=0, atol=2e-5)
    many = model.run_with_hooks(inputs, fwd_hooks=[(lambda n: n.endswith("hook_z"), lambda t, hook: t * 0)])
    assert (many - edited).abs().max() > 1e-3


def test_in_place_hooks_do_not_reach_recorded_tensors():
    model, inputs = held("gpt2"), inputs_for("gpt2")
    _, plain = model.record(inputs, names_filter="resid_post")
    with model.edited(Call("blocks.1.hook_resid_pre", lambda t, hook: t.zero_())):
        _, kept = model.record(inputs, names_filter="resid_post")
    torch.testing.assert_close(kept["blocks.0.hook_resid_post"], plain["blocks.0.hook_resid_post"], rtol=0, atol=0)


def test_blocks_nest_outer_first():
    model, inputs = held("llama"), inputs_for("llama")
    source = other_run(model, "llama", "z")
    with model.edited(Patch("L1H1", source)), model.edited(Gate("L1H1", 3.0)):
        nested = model(inputs)
    expected = z_by_hook(model, 1, 1, 3 * source["blocks.1.attn.hook_z"][:, :, 1], inputs)
    torch.testing.assert_close(nested, expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Patch("L0H0", torch.zeros(1, 1, 4, 8), site="resid_pre"), "has no heads to edit this way"),
        (lambda: Patch("L0H0", torch.zeros(1, 1, 4, 8), pos=-1), "negative"),
        (lambda: Ablate("L0H0", how="median"), "Unknown ablation 'median'"),
        (lambda: Ablate("L0H0", how="mean"), "needs reference="),
        (lambda: Gate("L0H0", float("nan")), "finite"),
    ],
)
def test_impossible_edits_are_refused_when_made(build, message):
    with pytest.raises(ValueError, match=message):
        build()


NO_POSITIONS = ["3", ["3", "4"], True, [True, False], 2.5, [1, 2.5], [[1, 2]], {1, 2}, 2**70]


@pytest.mark.parametrize("pos", NO_POSITIONS, ids=repr)
def test_positions_that_are_no_whole_numbers_are_refused_alike_by_every_edit(pos):
    for kind, *given in (
        (Patch, "L0H0", torch.zeros(1, 1, 4, 8)),
        (Ablate, "L0H0"),
        (Gate, "L0H0", 0.0),
        (Temperature, "L0H0", 2.0),
        (KnockOut, "L0H0", [(3, 1)]),
        (ForceRow, "L0H0"),
        (Recalibrate, "L0H0", {"a": [0]}, {"a": 0.5}),
    ):
        more = {"keys": [0]} if kind is ForceRow else {}
        with pytest.raises(ValueError, match=f"^{re.escape(f'pos={pos!r} was given; expected one whole number, or')}"):
            untyped(kind, *given, pos=pos, **more)


@pytest.mark.parametrize("pos", [3, [7, 3], (7, 3), range(2), torch.tensor(3), torch.tensor([7, 3])], ids=repr)
def test_whole_numbers_in_any_form_are_positions(pos):
    model, inputs = held("llama"), inputs_for("llama")
    silent = model.record(inputs, names_filter="z")[1]["blocks.1.attn.hook_z"].clone()
    for prompt, row in enumerate([int(pos)] * 2 if np.ndim(pos) == 0 else map(int, pos)):
        silent[prompt, row, 2] = 0
    with model.edited(Gate("L1H2", 0.0, pos=pos)):
        gated = model.record(inputs, names_filter="z")[1]["blocks.1.attn.hook_z"]
    assert torch.equal(gated, silent)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Gate("L40H2", 0.0), "L40H2 does not exist"),
        (Gate([], 0.0), "no heads"),
        (Patch("L0H0", {}), r"did not record blocks\.0\.attn\.hook_z"),
        (Patch("L0H0", torch.zeros(3, 11, 4, 8)), "3 prompts for a run of 2"),
        (Patch("L0H0", torch.zeros(2, 11, 4, 8), pos=[1, 2, 3]), "3 entries for a batch of 2"),
        (
            Ablate("L0H0", how="mean_positional", reference={"blocks.0.attn.hook_z": torch.zeros(2, 5, 4, 8)}),
            "only 5 positions",
        ),
        (Call("blocks.0.attn.hook_z", lambda t, hook: t[:1]), r"shape \(1, 11, 4, 8\)"),
        (Call("blocks.0.attn.hook_attn_scores", lambda t, hook: t * 0 - torch.inf), "no key to attend to"),
        (Call(lambda name: False, lambda t, hook: t), "matched no site"),
    ],
)
def test_edits_that_do_not_fit_are_refused(edit, message):
    model = held("llama")
    with pytest.raises(ValueError, match=message), model.edited(edit):
        model(inputs_for("llama"))


@pytest.mark.parametrize(
    "edit",
    [Gate("L1H1", 0.0), Gate("L1H1", 0.0, pos=30), Patch("L1H1", torch.zeros(2, 40, 4, 8), pos=30)],
    ids=repr,
)
def test_an_edit_that_never_acted_is_an_error(edit):
    model = held("llama")
    with pytest.raises(RuntimeError, match=r"L1H1.* never took effect"), model.edited(edit):
        if edit.pos is not None:
            model(inputs_for("llama"))
