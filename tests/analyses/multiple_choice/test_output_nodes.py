"""Direct and total effects of heads and MLPs against plain hooks, and how many nodes it takes, by hand."""

from functools import partial

import numpy as np
import pytest
import torch

from end_tasks import ragged_task, scrambled
from headlens.analyses.direct_logits import direct_logits
from headlens.analyses.multiple_choice.options import options_of
from headlens.analyses.multiple_choice.output_nodes import OutputNodes, output_nodes
from headlens.analyses.tasks import lettered
from lettered_models import lettered_model, lettered_task
from tiny_models import held

D_HEAD = 8


def places(model):
    """Per layer the module that reads the heads' z, its weights [z, d_model], and the MLP; and the last norm."""
    if hasattr(model.hf, "transformer"):
        blocks, norm = model.hf.transformer.h, model.hf.transformer.ln_f
        return [(block.attn.c_proj, block.attn.c_proj.weight, block.mlp) for block in blocks], norm
    blocks, norm = model.hf.model.layers, model.hf.model.norm
    return [(block.self_attn.o_proj, block.self_attn.o_proj.weight.T, block.mlp) for block in blocks], norm


def watched(model, tokens, edits=()):
    """What a plain forward of one prompt hands over at its last position, by module; `edits` are further hooks."""
    kept, handles = {}, []
    layers, norm = places(model)

    def keep(key, value):
        kept[key] = value[0, -1].detach().double()

    for at, (reader, _, mlp) in enumerate(layers):
        handles.append(reader.register_forward_pre_hook(lambda _, args, at=at: keep(("z", at), args[0])))
        handles.append(mlp.register_forward_hook(lambda _, args, output, at=at: keep(("mlp", at), output)))
    handles.append(norm.register_forward_pre_hook(lambda _, args: keep("last", args[0])))
    handles += [register(hook) for register, hook in edits]
    try:
        with torch.no_grad():
            kept["logits"] = model.hf(tokens[None]).logits[0, -1].double()
    finally:
        for handle in handles:
            handle.remove()
    return kept


def centred(values, options, prompt):
    right = int(options.right[prompt])
    own = [float(values[token]) for token in options.tokens[prompt]]
    return own[right] - (sum(own) - own[right]) / (len(own) - 1)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_direct_effects_are_those_of_plain_hooks(name):
    model, task = lettered_model(name), lettered_task()
    found, options = output_nodes(model, task, total=0), options_of(model, task)
    layers, norm = places(model)
    for prompt in range(len(task)):
        kept = watched(model, task.clean_tokens[prompt, : task.lengths[prompt]])
        last, readers = kept["last"], model.hf.lm_head.weight.double()
        spread = last.var(unbiased=False) if name == "gpt2" else last.square().mean()
        size = (spread + (norm.eps if name == "gpt2" else norm.variance_epsilon)).sqrt()

        def says(written, size=size, prompt=prompt, readers=readers):
            alone = written - written.mean() if name == "gpt2" else written
            return centred((readers @ (alone / size * norm.weight.double())).detach(), options, prompt)

        want = {}
        for layer, (_, weights, _) in enumerate(layers):
            for head in range(4):
                own = slice(head * D_HEAD, (head + 1) * D_HEAD)
                want[f"L{layer}H{head}"] = says(kept["z", layer][own] @ weights[own].double())
            want[f"MLP{layer}"] = says(kept["mlp", layer])
        got = dict(zip(found.nodes, found.direct[prompt], strict=True))
        assert got == pytest.approx(want, abs=1e-4)
        assert found.logit[prompt] == pytest.approx(centred(kept["logits"], options, prompt), abs=1e-4)
    np.testing.assert_allclose(found.direct.sum(1) + found.rest, found.logit, atol=1e-5)
    assert found.units == "logits (right letter minus the mean of the others)"
    assert np.isnan(found.total).all()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_total_effects_are_those_of_plain_patches(name):
    model, task = lettered_model(name), lettered_task(n=5)
    found, options = output_nodes(model, task, total=15, progress=False), options_of(model, task)
    layers, _ = places(model)
    for prompt in range(len(task)):
        clean, corrupted = (row[prompt, : task.lengths[prompt]] for row in (task.clean_tokens, task.corrupted_tokens))
        base, other = watched(model, clean), watched(model, corrupted)
        for node in ("L0H1", "L2H3", "MLP1"):
            layer = int(node[1] if node[0] == "L" else node[3])

            def patch(_, args, output=None, node=node, layer=layer, other=other):
                value = (args[0] if output is None else output).clone()
                own = slice(int(node[3]) * D_HEAD, (int(node[3]) + 1) * D_HEAD) if output is None else slice(None)
                value[0, -1, own] = other["z" if output is None else "mlp", layer][own]
                return (value,) if output is None else value

            reader, _, mlp = layers[layer]
            register = reader.register_forward_pre_hook if node[0] == "L" else mlp.register_forward_hook
            patched = watched(model, clean, [(register, partial(patch))])
            want = centred(base["logits"], options, prompt) - centred(patched["logits"], options, prompt)
            assert found.total[prompt, found.nodes.index(node)] == pytest.approx(want, abs=1e-4), node


def test_only_the_strongest_are_patched():
    found = output_nodes(lettered_model("llama"), lettered_task(), total=4, progress=False)
    frame = found.to_frame()
    assert frame["total"].isna().tolist() == [False] * 4 + [True] * 11
    assert frame["node"].tolist() == [*found.ranked] and {*frame["kind"][:4]} == {"mlp", "head"}
    assert (np.diff(frame["direct"]) <= 0).all() and (frame["direct_low"] <= frame["direct_high"]).all()


def by_hand(direct):
    direct = np.array(direct, np.float32)
    nodes = tuple(f"L0H{at}" for at in range(direct.shape[1]))
    zeros = np.zeros(len(direct), np.float32)
    clusters = tuple(f"prompt {at}" for at in range(len(direct)))
    return OutputNodes(nodes, direct, zeros, direct.sum(1), np.full_like(direct, np.nan), clusters, "logits")


@pytest.mark.parametrize(("share", "count"), [(0.4, 1), (0.41, 2), (0.9, 3), (1.0, 4)])
def test_nodes_needed_are_counted_over_the_positive_ones(share, count):
    found = by_hand([[2, 4, -5, 1, 3]] * 3)
    assert found.ranked == ("L0H1", "L0H4", "L0H0", "L0H3", "L0H2")
    np.testing.assert_allclose(found.to_frame()["cumulative"], [0.4, 0.7, 0.9, 1, 1], atol=1e-6)
    needed = found.needed(share)
    # equal prompts leave nothing open
    assert (needed.count, needed.low, needed.high, needed.of) == (count, count, count, 5)


def test_prompts_that_differ_leave_the_count_open():
    needed = by_hand([[9, 0, 0], [0, 5, 0], [0, 0, 3]]).needed(0.9)
    assert needed.low < needed.high <= 3 and needed.count == 3


def test_without_options_it_is_answer_minus_foil():
    model, task = scrambled("opt"), ragged_task()
    found, heads = output_nodes(model, task, total=0), direct_logits(model, task)
    np.testing.assert_allclose(found.headmap().samples, heads.samples, rtol=0, atol=1e-5)
    assert found.units == "logits (answer minus foil)" and found.headmap().units == found.units


def test_what_cannot_be_answered_is_refused():
    with pytest.raises(ValueError, match=r"total=-1 was given; expected how many"):
        output_nodes(lettered_model("gpt2"), lettered_task(), total=-1)
    with pytest.raises(ValueError, match=r"Unknown source 'others'"):
        output_nodes(lettered_model("gpt2"), lettered_task(), source="others")
    with pytest.raises(ValueError, match="is not a causal language model"):
        output_nodes(held("bert"), ragged_task())
    with pytest.raises(ValueError, match=r"share=1\.5 was given"):
        by_hand([[1.0]]).needed(1.5)
    with pytest.raises(ValueError, match="No node writes for the answer"):
        by_hand([[-1.0, -2.0]]).needed()


@pytest.mark.real
@pytest.mark.slow
def test_nodes_of_the_real_model_sum_to_its_logits(smollm2):
    task = lettered(smollm2, n=8, shots=0)
    found = output_nodes(smollm2, task, total=2, progress=False)
    options = options_of(smollm2, task)
    with torch.no_grad():
        logits = smollm2.hf(task.clean_tokens).logits[torch.arange(8), task.positions["END"]]
    own = [centred(logits[prompt], options, prompt) for prompt in range(8)]
    np.testing.assert_allclose(found.direct.sum(1) + found.rest, own, atol=2e-3)
    assert len(found.nodes) == 300 and (~np.isnan(found.total)).sum() == 16
