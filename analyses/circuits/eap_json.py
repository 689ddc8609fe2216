"""EAP-IG's graph files in JSON, so that the MIB benchmark's tools score our circuits and theirs are read here.

Their names: "input", "a3.h1", "m3", "logits"; edges "a0.h1->a3.h2<q>", "m0->logits", each with a score and whether it
is in the graph (github.com/hannamw/EAP-IG, `Graph.to_json`). Their tools give every query head a key and a value of its
own. Where heads share them, one edge of ours is as many of theirs, with equal parts of its score.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from headlens.analyses.atomic import write_bytes
from headlens.analyses.circuits.circuit import Circuit
from headlens.hooks.model import Model
from headlens.hooks.wiring import Node, Wiring, wiring_of


def write_eap_json(circuit: Circuit, path: str | Path, d_model: int) -> None:
    """Write the circuit, with every edge of the model and its score (0 where unknown), atomically.

    `d_model` is the width of the residual stream, which the files name. ValueError for a model with a layer without an
    MLP, or with parallel blocks in some layers only: the form has no place for them.
    """
    wiring = circuit.wiring
    if "none" in wiring.mlps or len({*wiring.mlps}) > 1:
        raise ValueError(
            "EAP-IG's graphs have an MLP in every layer, all of them after the attention or all beside it; "
            f"this model's layers have {', '.join(sorted({*wiring.mlps}))}."
        )
    inside = {*circuit.nodes}
    cfg = {
        "n_layers": wiring.n_layers,
        "n_heads": wiring.n_heads,
        "parallel_attn_mlp": wiring.mlps[0] == "beside",
        "d_model": d_model,
    }
    nodes = {_sender_name(node): {"in_graph": node in inside or node.kind == "embed"} for node in wiring.senders}
    nodes["logits"] = {"in_graph": True}
    edges = {}
    for row, column in np.argwhere(wiring.possible):
        names = [*_receiver_names(wiring, wiring.receivers[column])]
        score = 0.0 if circuit.scores is None else float(np.nan_to_num(circuit.scores[row, column])) / len(names)
        for name in names:
            edge = f"{_sender_name(wiring.senders[row])}->{name}"
            edges[edge] = {"score": score, "in_graph": bool(circuit.kept[row, column])}
    write_bytes(Path(path), json.dumps({"cfg": cfg, "nodes": nodes, "edges": edges}).encode())


def read_eap_json(model: Model, path: str | Path) -> Circuit:
    """The circuit of an EAP-IG graph file of `model`.

    Where query heads share a key, an edge into it is kept if any of them has it, and its score is the sum of theirs.
    ValueError for a file of another form or of a model with other layers and heads.
    """
    wiring = wiring_of(model)
    try:
        data = json.loads(Path(path).read_text())
        cfg, edges = data["cfg"], data["edges"]
        sizes, given = (cfg["n_layers"], cfg["n_heads"]), {name: _given(about) for name, about in edges.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a graph that EAP-IG wrote as JSON ({error!r}).") from error
    if sizes != (wiring.n_layers, wiring.n_heads):
        raise ValueError(
            f"{path} is of a model with {sizes[0]} layers of {sizes[1]} heads; {model.name!r} has {wiring.n_layers} of "
            f"{wiring.n_heads}."
        )
    kept, scores = np.zeros(wiring.possible.shape, bool), np.full(wiring.possible.shape, np.nan, np.float32)
    unread = {*given}
    for row, column in np.argwhere(wiring.possible):
        sender = _sender_name(wiring.senders[row])
        names = [f"{sender}->{name}" for name in _receiver_names(wiring, wiring.receivers[column])]
        found = [given[name] for name in names if name in given]
        unread -= {*names}
        if found:
            kept[row, column] = any(in_graph for _, in_graph in found)
            scores[row, column] = sum(score for score, _ in found)
    if unread:
        raise ValueError(f"{path} has the edge {min(unread)!r}, which {model.name!r} does not have.")
    return Circuit(wiring, kept, Path(path).stem, scores, provenance={"model": model.name, "read_from": str(path)})


def _given(about: Any) -> tuple[float, bool]:
    """Score and membership of an edge."""
    return float(about["score"]), bool(about["in_graph"])


def _sender_name(node: Node) -> str:
    return {"embed": "input", "head": f"a{node.layer}.h{node.head}", "mlp": f"m{node.layer}"}[node.kind]


def _receiver_names(wiring: Wiring, node: Node) -> Iterator[str]:
    if node.kind in ("mlp", "logits"):
        yield f"m{node.layer}" if node.kind == "mlp" else "logits"
    elif node.kind == "q":
        yield f"a{node.layer}.h{node.head}<q>"
    else:
        heads = (head for head in range(wiring.n_heads) if wiring.group(head) == node.head)
        yield from (f"a{node.layer}.h{head}<{node.kind}>" for head in heads)
