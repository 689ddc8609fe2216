"""Models with only some edges left, from their weights alone: float64, one node at a time in
plain loops. GPT-2, Llama with grouped queries, and GPT-NeoX with parallel blocks."""

import copy

import torch
from torch.nn.functional import gelu, silu


class PlainEdges:
    """The three functions that make a model, by kind: what enters, what a head reads and writes, what an MLP writes."""

    def __init__(self, model):
        self.hf, self.model = copy.deepcopy(model.hf).double().eval(), model
        self.kind = self.hf.config.model_type
        self.w = dict(self.hf.state_dict())
        self.d, self.n_heads, self.n_kv = model.d_head, model.n_heads, model.n_kv_heads
        self.parallel = self.kind == "gpt_neox"

    def run(self, tokens, wiring, kept, ablated=None):
        """What every sender writes [sender: prompt pos d_model] and the logits at the last position, where edges that
        are not `kept` carry `ablated` (nothing, if None)."""
        written = {}

        def read(receiver):
            column, total = wiring.receivers.index(receiver), 0
            for row, sender in enumerate(wiring.senders):
                if wiring.possible[row, column]:
                    cut = 0 if ablated is None else ablated[sender]
                    total = total + (written[sender] if kept[row, column] else cut)
            upto = receiver.layer + (receiver.kind == "mlp" and not self.parallel)
            return total + sum(self.output_bias(layer) for layer in range(upto)) + 0 * written[wiring.senders[0]]

        by = {(node.kind, node.layer, node.head): node for node in wiring.receivers}
        for sender in wiring.senders:
            layer, head = sender.layer, sender.head
            if sender.kind == "embed":
                written[sender] = self.embedding(tokens)
            elif sender.kind == "head":
                group = head // (self.n_heads // self.n_kv)
                q = self.projected(read(by["q", layer, head]), layer, "q", head)
                k = self.projected(read(by["k", layer, group]), layer, "k", group)
                v = self.projected(read(by["v", layer, group]), layer, "v", group)
                written[sender] = (
                    self.attended(q, k, v) @ self.output_weight(layer)[head * self.d : (head + 1) * self.d]
                )
            else:
                written[sender] = self.mlp(read(by["mlp", layer, -1]), layer)
        return written, self.logits(read(wiring.receivers[-1])[:, -1])

    def attended(self, q, k, v):
        scores = q @ k.transpose(1, 2) / self.d**0.5
        hidden = torch.ones(scores.shape[-2:]).triu(1).bool()
        return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v

    def embedding(self, tokens):
        if self.kind == "gpt2":
            return self.w["transformer.wte.weight"][tokens] + self.w["transformer.wpe.weight"][: tokens.shape[1]]
        return self.w["model.embed_tokens.weight" if self.kind == "llama" else "gpt_neox.embed_in.weight"][tokens]

    def projected(self, x, layer, kind, head):
        """One head's query, key or value, rotated where the model rotates it."""
        rows = slice(head * self.d, (head + 1) * self.d)
        if self.kind == "gpt2":
            at, width = f"transformer.h.{layer}", self.n_heads * self.d
            rows = slice("qkv".index(kind) * width + rows.start, "qkv".index(kind) * width + rows.stop)
            weight, bias = self.w[f"{at}.attn.c_attn.weight"][:, rows], self.w[f"{at}.attn.c_attn.bias"][rows]
            return self.layer_norm(x, f"{at}.ln_1") @ weight + bias
        if self.kind == "llama":
            at = f"model.layers.{layer}"
            own = self.rms_norm(x, f"{at}.input_layernorm") @ self.w[f"{at}.self_attn.{kind}_proj.weight"][rows].T
            return own if kind == "v" else self.rotated(own, self.d)
        at, first = f"gpt_neox.layers.{layer}", (3 * head + "qkv".index(kind)) * self.d
        weight, bias = (self.w[f"{at}.attention.query_key_value.{name}"] for name in ("weight", "bias"))
        rows = slice(first, first + self.d)
        own = self.layer_norm(x, f"{at}.input_layernorm") @ weight[rows].T + bias[rows]
        return own if kind == "v" else self.rotated(own, self.d // 4)

    def rotated(self, x, size):
        half = size // 2
        angles = torch.arange(x.shape[1])[:, None] / 10000 ** (torch.arange(half).double() * 2 / size)
        first, second, rest = x[..., :half], x[..., half:size], x[..., size:]
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], -1)

    def output_weight(self, layer):
        if self.kind == "gpt2":
            return self.w[f"transformer.h.{layer}.attn.c_proj.weight"]
        if self.kind == "llama":
            return self.w[f"model.layers.{layer}.self_attn.o_proj.weight"].T
        return self.w[f"gpt_neox.layers.{layer}.attention.dense.weight"].T

    def output_bias(self, layer):
        names = {
            "gpt2": f"transformer.h.{layer}.attn.c_proj.bias",
            "gpt_neox": f"gpt_neox.layers.{layer}.attention.dense.bias",
        }
        return self.w[names[self.kind]] if self.kind in names else 0

    def mlp(self, x, layer):
        if self.kind == "gpt2":
            at = f"transformer.h.{layer}"
            up = self.layer_norm(x, f"{at}.ln_2") @ self.w[f"{at}.mlp.c_fc.weight"] + self.w[f"{at}.mlp.c_fc.bias"]
            return gelu(up, approximate="tanh") @ self.w[f"{at}.mlp.c_proj.weight"] + self.w[f"{at}.mlp.c_proj.bias"]
        if self.kind == "llama":
            at = f"model.layers.{layer}"
            x = self.rms_norm(x, f"{at}.post_attention_layernorm")
            gate, up, down = (self.w[f"{at}.mlp.{name}_proj.weight"].T for name in ("gate", "up", "down"))
            return (silu(x @ gate) * (x @ up)) @ down
        at = f"gpt_neox.layers.{layer}"
        w, b = (
            [self.w[f"{at}.mlp.dense_{way}.{name}"] for way in ("h_to_4h", "4h_to_h")] for name in ("weight", "bias")
        )
        return gelu(self.layer_norm(x, f"{at}.post_attention_layernorm") @ w[0].T + b[0]) @ w[1].T + b[1]

    def logits(self, x):
        if self.kind == "gpt2":
            return self.layer_norm(x, "transformer.ln_f") @ self.w["transformer.wte.weight"].T
        if self.kind == "llama":
            return self.rms_norm(x, "model.norm") @ self.w["lm_head.weight"].T
        return self.layer_norm(x, "gpt_neox.final_layer_norm") @ self.hf.get_output_embeddings().weight.detach().T

    def layer_norm(self, x, at):
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.var(-1, keepdim=True, correction=0) + 1e-5).sqrt() * self.w[f"{at}.weight"]
            + self.w[f"{at}.bias"]
        )

    def rms_norm(self, x, at):
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self.w[f"{at}.weight"]
