"""Running a model with only some edges left, against plain loops over its weights in float64."""

import numpy as np
import pytest
import torch

from headlens.hooks.edges.edge_ground import ground_of_run, ground_of_values
from headlens.hooks.edges.edge_run import run_edges
from headlens.hooks.edges.node_means import means, positional_means, zeros
from headlens.hooks.edges.node_values import record_values
from headlens.hooks.edits import Patch
from headlens.hooks.model import wrap
from headlens.hooks.reading import Read
from headlens.hooks.wiring import wiring_of
from plain_edges import PlainEdges
from tiny_models import held, tiny
from tiny_tasks import task_of

NAMES = ("gpt2", "llama", "gpt_neox")
START = 4


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    return Case(request.param)


class Case:
    """A tiny model with biases, a task, and the plain implementation of both runs."""

    def __init__(self, name):
        hf = tiny(name)
        torch.manual_seed(3)
        for parameter in hf.parameters():
            if parameter.ndim == 1:
                # norms and biases start at 1 and 0, which would hide a bias that is left out
                torch.nn.init.normal_(parameter, mean=parameter.detach().mean().item(), std=0.3)
        self.model, self.task, self.plain = wrap(hf, name=name), task_of(name, prompts=3), PlainEdges(wrap(hf))
        self.wiring = wiring_of(self.model)
        self.clean, self.corrupted = self.task.clean_tokens, self.task.corrupted_tokens
        self.written, _ = self.plain.run(self.corrupted, self.wiring, self.wiring.possible)

    def random(self, share, seed=0, cells=1):
        random = np.random.default_rng(seed).random((cells, *self.wiring.possible.shape))
        return (random < share) & self.wiring.possible

    def expected(self, kept, ablated):
        return torch.stack([self.plain.run(self.clean, self.wiring, cell, ablated)[1] for cell in kept])


def close(found, expected):
    assert found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=3e-5)


def test_the_plain_implementation_is_the_model(case):
    written, logits = case.plain.run(case.clean, case.wiring, case.wiring.possible)
    close(case.model(case.clean)[:, -1].detach(), logits)
    assert len(written) == len(case.wiring.senders)


@pytest.mark.parametrize("share", [0.03, 0.3, 0.9])
def test_edges_left_beside_the_corrupted_run(case, share):
    kept = case.random(share, cells=3)
    ground = ground_of_run(case.model, case.clean, case.corrupted, START)
    expected = case.expected(kept, case.written)
    # the circuit must have something to say, or nothing is compared
    assert share < 0.1 or (expected - case.expected(kept & False, case.written)).abs().max() > 0.05
    close(run_edges(case.model, ground, kept, Read(None)), expected)


def test_from_the_first_position_on_it_is_the_same(case):
    kept = case.random(0.5, cells=2)
    late, early = (ground_of_run(case.model, case.clean, case.corrupted, start) for start in (START, 0))
    close(run_edges(case.model, late, kept, Read(None)), run_edges(case.model, early, kept, Read(None)).double())


@pytest.mark.parametrize("how", ["zero", "mean", "mean_positional"])
@pytest.mark.parametrize("share", [0.05, 0.6])
def test_edges_left_beside_fixed_values(case, how, share):
    _, values = record_values(case.model, case.corrupted, 0)
    match how:
        case "zero":
            ablated = zeros(values)
        case "mean":
            ablated = means([values])
        case _:
            ablated = positional_means([values])
    dims = {"mean": (0, 1), "mean_positional": 0}.get(how)
    stand_in = {
        node: torch.zeros_like(each) if dims is None else each.mean(dims, keepdim=True).expand_as(each)
        for node, each in case.written.items()
    }
    kept = case.random(share, cells=2)
    ground = ground_of_values(case.model, case.clean, ablated)
    close(run_edges(case.model, ground, kept, Read(None)), case.expected(kept, stand_in))


def test_all_edges_are_the_clean_run_and_none_the_corrupted(case):
    ground = ground_of_run(case.model, case.clean, case.corrupted, START)
    kept = np.stack([case.wiring.possible, case.wiring.possible & False])
    found = run_edges(case.model, ground, kept, Read(None))
    close(found[0], case.model(case.clean)[:, -1].detach().double())
    close(found[1], case.model(case.corrupted)[:, -1].detach().double())


def test_a_circuit_of_whole_nodes_is_the_model_with_its_other_heads_patched(case):
    out = [(0, 1), (1, 0), (1, 3), (2, 2)]
    gone = [node.kind == "head" and (node.layer, node.head) in out for node in case.wiring.senders]
    kept = case.wiring.possible & ~np.array(gone)[:, None]
    ground = ground_of_run(case.model, case.clean, case.corrupted, START)
    _, cache = case.model.record(case.corrupted, names_filter=["z"])
    with torch.no_grad(), case.model.edited(Patch(out, cache)):
        expected = case.model(case.clean)[:, -1]
    close(run_edges(case.model, ground, kept[None], Read(None))[0], expected.double())


def test_cells_run_together_as_they_run_alone_and_tokens_are_the_asked_ones(case):
    kept = np.concatenate([case.random(0.8), case.random(0.1), case.random(0.4)])
    # differs from the first in its last layer alone
    late = kept[0].copy()
    late[:, case.wiring.receivers.index(next(n for n in case.wiring.receivers if str(n) == "MLP2"))] = False
    kept = np.concatenate([kept, late[None]])
    ground = ground_of_run(case.model, case.clean, case.corrupted, START)
    tokens = torch.stack([case.task.answers, case.task.foils], 1)
    together = run_edges(case.model, ground, kept, Read(tokens))
    for at, cell in enumerate(kept):
        whole = run_edges(case.model, ground, cell[None], Read(None))[0]
        close(together[at], whole.gather(1, tokens).double())


def test_means_over_prompts_of_different_lengths():
    model = held("llama")
    tokens = task_of(prompts=5).clean_tokens
    groups = [tokens[:2], tokens[2:, :6]]
    runs = [record_values(model, group, 0)[1] for group in groups]
    everything, by_position = means(runs), positional_means(runs)
    flat = torch.cat([run.mlp[1].flatten(0, 1) for run in runs])
    torch.testing.assert_close(everything.mlp[1][0, 0], flat.mean(0))
    z = by_position.z[2]
    torch.testing.assert_close(z[0, 3], torch.cat([run.z[2][:, 3] for run in runs]).mean(0))
    torch.testing.assert_close(z[0, 8], runs[0].z[2][:, 8].mean(0))
    with pytest.raises(ValueError, match="no runs"):
        means([])


def test_means_of_longer_prompts_serve_shorter_ones_and_not_the_other_way(case):
    _, values = record_values(case.model, case.corrupted, 0)
    longer, short = positional_means([values]), case.clean[:, :7]
    cut = longer.mapped(lambda tensor: tensor[:, :7])
    kept = case.random(0.4)
    found = [run_edges(case.model, ground_of_values(case.model, short, of), kept, Read(None)) for of in (longer, cut)]
    assert torch.equal(*found)
    with pytest.raises(ValueError, match="at least as many positions"):
        ground_of_values(case.model, case.clean, cut)


def test_post_norms_are_refused():
    task = task_of("gemma2")
    with pytest.raises(ValueError, match="Gemma2DecoderLayer norms the sum of its heads"):
        ground_of_run(held("gemma2"), task.clean_tokens, task.corrupted_tokens, START)


def test_a_block_that_scales_its_additions_is_refused():
    from transformers import GraniteConfig, GraniteForCausalLM

    config = GraniteConfig(
        vocab_size=120,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        residual_multiplier=0.5,
    )
    torch.manual_seed(0)
    model, task = wrap(GraniteForCausalLM(config).eval()), task_of()
    with pytest.raises(ValueError, match="GraniteDecoderLayer does more with its heads and its MLP than add"):
        ground_of_run(model, task.clean_tokens, task.corrupted_tokens, START)


def test_edges_that_the_model_does_not_have_are_refused(case):
    ground = ground_of_run(case.model, case.clean, case.corrupted, START)
    with pytest.raises(ValueError, match="True at edges of the model alone"):
        run_edges(case.model, ground, ~case.wiring.possible[None], Read(None))
    with pytest.raises(ValueError, match="expected booleans"):
        run_edges(case.model, ground, case.wiring.possible, Read(None))


@pytest.mark.parametrize("name", ["qwen3", "mistral", "opt", "phi3", "cohere", "gpt_oss"])
def test_other_architectures_agree_with_heads_patched(name):
    model, task = held(name), task_of(name, prompts=3)
    wiring, out = wiring_of(model), [(0, 1), (1, 0), (1, 3), (2, 2)]
    gone = [node.kind == "head" and (node.layer, node.head) in out for node in wiring.senders]
    kept = np.stack([wiring.possible & ~np.array(gone)[:, None], wiring.possible])
    found = run_edges(model, ground_of_run(model, task.clean_tokens, task.corrupted_tokens, START), kept, Read(None))
    _, cache = model.record(task.corrupted_tokens, names_filter=["z"])
    with torch.no_grad(), model.edited(Patch(out, cache)):
        expected = torch.stack([model(task.clean_tokens)[:, -1]])
    plain = model(task.clean_tokens)[:, -1].detach()
    close(found, torch.cat([expected, plain[None]]).double())
