"""Edge scores one receiver at a time, by plain hooks on transformers' eager models.

Every receiver has a leaf of its own, which is 0 and is added to what that receiver alone reads.
"""

from contextlib import contextmanager

import torch

from headlens.hooks.model import wrap
from headlens.hooks.wiring import wiring_of


def _rotary_rows(attention, kind, head, d):
    return getattr(attention, f"{kind}_proj"), slice(head * d, (head + 1) * d)


def _gpt2_rows(attention, kind, head, d):
    start = "qkv".index(kind) * attention.embed_dim + head * d
    return attention.c_attn, slice(start, start + d)


def _neox_rows(attention, kind, head, d):
    start = (3 * head + "qkv".index(kind)) * d
    return attention.query_key_value, slice(start, start + d)


_LLAMA = (
    "model.layers",
    "self_attn",
    "input_layernorm",
    "o_proj",
    "post_attention_layernorm",
    "model.norm",
    _rotary_rows,
)
# blocks, attention, its norm, its output projection, the MLP's norm, the final norm, which rows a head's q, k, v are
_PARTS = {
    "llama": _LLAMA,
    "qwen3": _LLAMA,
    "gpt2": ("transformer.h", "attn", "ln_1", "c_proj", "ln_2", "transformer.ln_f", _gpt2_rows),
    "gpt_neox": (
        *("gpt_neox.layers", "attention", "input_layernorm", "dense"),
        *("post_attention_layernorm", "gpt_neox.final_layer_norm", _neox_rows),
    ),
}


class SlowEdges:
    """Scores of one model's edges, in the order of its wiring."""

    def __init__(self, name, hf):
        self.model = wrap(hf)
        self.wiring = wiring_of(self.model)
        hf.set_attn_implementation("eager")
        blocks, attention, self.norm, self.projection, self.mlp_norm, final, self.rows = _PARTS[name]
        self.hf, self.blocks, self.final = hf, list(hf.get_submodule(blocks)), hf.get_submodule(final)
        self.attentions = [getattr(block, attention) for block in self.blocks]

    def scores(self, task, prompt, direction):
        """Scores [sender, receiver] of one prompt, in logits, and clean minus corrupted."""
        base, other, pair = self._pair(task, prompt, direction)
        written, across = self._written(base, pair), self._written(other, pair)
        leaves = {node: torch.zeros_like(written[0], requires_grad=True) for node in self.wiring.receivers}
        with torch.enable_grad():
            gradients = torch.autograd.grad(self._said(base, pair, leaves), [*leaves.values()])
        with torch.no_grad():
            whole = self._said(other, pair, {}) - self._said(base, pair, {})
        differences = torch.stack(across) - torch.stack(written)
        scores = torch.einsum("spd,rpd->sr", differences, torch.stack(gradients)).numpy()
        toward = 1 if direction == "denoising" else -1
        return toward * scores, toward * float(whole)

    @torch.no_grad()
    def small_step(self, task, prompt, sender, receiver, step=1e-4):
        """How fast the metric moves as one edge is patched little by little (noising), and clean minus corrupted."""
        base, other, pair = self._pair(task, prompt, "noising")
        at = [str(node) for node in self.wiring.senders].index(sender)
        node = next(node for node in self.wiring.receivers if str(node) == receiver)
        difference = self._written(other, pair)[at] - self._written(base, pair)[at]
        ends = [self._said(base, pair, {node: sign * step * difference}) for sign in (1, -1)]
        whole = self._said(base, pair, {}) - self._said(other, pair, {})
        return float(ends[0] - ends[1]) / (2 * step), float(whole)

    def _pair(self, task, prompt, direction):
        length = int(task.lengths[prompt])
        runs = [tokens[prompt, :length] for tokens in (task.clean_tokens, task.corrupted_tokens)]
        return *(runs if direction == "noising" else runs[::-1]), (int(task.answers[prompt]), int(task.foils[prompt]))

    @torch.no_grad()
    def _written(self, tokens, pair):
        """What each sender writes [pos, d_model]."""
        kept, d = {}, self.model.d_head
        with self._hooks() as hook:
            hook(self.blocks[0], lambda module, args, kwargs: kept.update(embed=_hidden(args, kwargs)), pre=True)
            for at, (block, attention) in enumerate(zip(self.blocks, self.attentions, strict=True)):
                out = getattr(attention, self.projection)
                hook(out, lambda module, args, kwargs, at=at: kept.update({("z", at): args[0]}), pre=True)
                hook(block.mlp, lambda module, args, output, at=at: kept.update({("mlp", at): output}))
            self._metric(tokens, pair)
        written = []
        for node in self.wiring.senders:
            if node.kind != "head":
                written.append(kept["embed" if node.kind == "embed" else ("mlp", node.layer)][0])
                continue
            out, own = getattr(self.attentions[node.layer], self.projection), slice(node.head * d, node.head * d + d)
            weight = out.weight if type(out).__name__ == "Conv1D" else out.weight.T
            written.append(kept["z", node.layer][0, :, own] @ weight[own])
        return written

    def _said(self, tokens, pair, leaves):
        """The metric with something added to what single receivers read."""
        streams = {}
        with self._hooks() as hook:
            for at, block in enumerate(self.blocks):
                hook(block, lambda module, args, kwargs, at=at: streams.update({at: _hidden(args, kwargs)}), pre=True)
            for node, leaf in leaves.items():
                if node.kind == "logits":
                    hook(self.final, lambda module, args, kwargs, leaf=leaf: ((args[0] + leaf,), kwargs), pre=True)
                elif node.kind == "mlp":
                    norm = getattr(self.blocks[node.layer], self.mlp_norm)
                    hook(norm, lambda module, args, kwargs, leaf=leaf: ((args[0] + leaf,), kwargs), pre=True)
                else:
                    module, rows = self.rows(self.attentions[node.layer], node.kind, node.head, self.model.d_head)
                    norm = getattr(self.blocks[node.layer], self.norm)
                    hook(module, self._reading(norm, streams, node.layer, leaf, rows))
            return self._metric(tokens, pair)

    @staticmethod
    def _reading(norm, streams, layer, leaf, rows):
        def read(module, args, output):
            weight = module.weight.T if type(module).__name__ == "Conv1D" else module.weight
            own = norm(streams[layer] + leaf) @ weight[rows].T
            own = own if module.bias is None else own + module.bias[rows]
            return torch.cat([output[..., : rows.start], own, output[..., rows.stop :]], -1)

        return read

    def _metric(self, tokens, pair):
        last = self.hf(input_ids=tokens[None], use_cache=False).logits[0, -1]
        return last[pair[0]] - last[pair[1]]

    @contextmanager
    def _hooks(self):
        handles = []

        def hook(module, function, pre=False):
            handles.append(
                module.register_forward_pre_hook(function, with_kwargs=True)
                if pre
                else module.register_forward_hook(function)
            )

        try:
            yield hook
        finally:
            for handle in handles:
                handle.remove()


def _hidden(args, kwargs):
    return args[0] if args else kwargs["hidden_states"]
