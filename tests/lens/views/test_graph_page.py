"""The head graph in a browser: slider, search, keys, cards and zoom do what a reader expects of them."""

import pytest

from drawn_circuits import drawn_circuit
from headlens.views.graph_data import head_graph
from headlens.views.graph_layout import lay_out
from headlens.views.graph_payload import graph_paths, graph_payload
from page_trial import trial

TITLES = {"compact": "compact", "role": "by role"}
FIRST = {"threshold": 0.0, "selected": None, "across": "compact", "zoom": 0}


@pytest.fixture(scope="module")
def graph():
    """A graph of which three heads have roles."""
    circuit = drawn_circuit(edges=90)
    roles = {str(head): "name mover" for head in circuit.heads[-3:]}
    return head_graph(drawn_circuit(edges=90, roles=roles))


@pytest.fixture
def page(graph, tmp_path):
    """Run a script on the page of that graph."""
    layouts = {
        "compact": lay_out(graph),
        "role": lay_out(graph, [node.role or ("no role" if node.kind == "head" else "") for node in graph.nodes]),
    }
    data = graph_payload(graph, layouts, TITLES, "Scores are in u.")

    def run(script, width=1280, dark=False, **traits):
        sent = {"paths": graph_paths(layouts)}
        return trial("graph.js", ["graph.css"], {"data": data, **FIRST, **traits}, sent, script, tmp_path, width, dark)

    return run


@pytest.mark.slow
def test_a_reader_goes_through_the_graph(page, graph):
    found = page(
        """
        const seen = () => root.querySelectorAll(".edge:not(.off)").length;
        const chosen = () => root.querySelector(".node.selected text")?.textContent ?? null;
        const range = root.querySelector("input[type=range]");
        const first = { edges: seen(), nodes: root.querySelectorAll(".node").length, chosen: chosen() };
        type(range, "12"); type(range, "12", "change");
        const said = range.getAttribute("aria-valuetext");
        const slid = { edges: seen(), threshold: model.get("threshold"), said, saved: model.saved };
        type(range, "0");
        const none = seen();
        model.set("threshold", 0);
        const search = root.querySelector("input[type=search]");
        type(search, "name mover");
        const hits = root.querySelectorAll(".node.found").length;
        key(search, "Enter");
        const one = model.get("selected");
        key(search, "Enter");
        const two = model.get("selected");
        model.set("selected", "logits");
        const card = root.querySelector(".card").textContent;
        const logits = root.querySelector(".node.selected");
        const tabbed = [...root.querySelectorAll(".node[tabindex='0']")].length;
        key(logits, "ArrowDown");
        const down = model.get("selected");
        const focused = document.activeElement.querySelector("text").textContent;
        const button = root.querySelector(".card button");
        const other = button.textContent;
        button.click();
        const followed = model.get("selected");
        const width = Number(root.querySelector("svg").getAttribute("width"));
        key(root.querySelector(".node.selected"), "+");
        const zoomed = Number(root.querySelector("svg").getAttribute("width")) / width;
        key(root.querySelector(".node.selected"), "0");
        const fitted = Number(root.querySelector("svg").getAttribute("width")) / width;
        [...root.querySelectorAll("button")].find((one) => one.textContent === "by role").click();
        const across = [model.get("across"), [...root.querySelectorAll(".band-name")].map((one) => one.textContent)];
        key(root.querySelector(".node.selected"), "Escape");
        const left = [model.get("selected"), chosen()];
        const moves = { tabbed, down, focused, other, followed, zoomed, fitted };
        return { first, slid, none, hits, one, two, card, across, left, ...moves };
        """
    )
    assert found["first"] == {"edges": len(graph.edges), "nodes": len(graph.nodes), "chosen": None}
    twelfth = graph.magnitudes[11]
    assert found["slid"]["edges"] == 12 and found["slid"]["threshold"] == pytest.approx(twelfth, rel=1e-9)
    assert found["slid"]["said"].startswith(f"12 of {len(graph.edges)}, magnitude 0.") and found["slid"]["saved"] == 1
    assert found["none"] == 0
    movers = [node.name for node in graph.nodes if node.role == "name mover"]
    assert found["hits"] == len(movers) == 3 and [found["one"], found["two"]] == movers[:2]
    assert found["card"].startswith("logits") and "Read by: nothing" in found["card"] and found["tabbed"] == 1
    assert found["down"] == found["focused"] != "logits" and found["followed"] == found["other"]
    assert found["zoomed"] == pytest.approx(1.25) and found["fitted"] == pytest.approx(1.0)
    assert found["across"] == ["role", ["no role", "name mover"]]
    assert found["left"] == [None, None]


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_names_can_be_read_on_the_boxes(page, dark):
    darkest, found = page(
        """
        const pen = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d");
        const light = (colour) => {
          pen.fillStyle = colour;
          pen.fillRect(0, 0, 1, 1);
          const parts = [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => part / 255);
          const linear = parts.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
          return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
        };
        const contrast = (one, two) => {
          const [low, high] = [light(one), light(two)].sort((a, b) => a - b);
          return (high + 0.05) / (low + 0.05);
        };
        const fill = (element) => getComputedStyle(element).fill;
        const nodes = [...root.querySelectorAll(".node")];
        const paper = light(getComputedStyle(document.body).backgroundColor);
        const found = nodes.map((node) => ["text", "rect"].map((tag) => fill(node.querySelector(tag))));
        return [paper, found.map(([text, box]) => contrast(text, box))];
        """,
        dark=dark,
    )
    assert (darkest < 0.5) == dark
    assert min(found) >= 4.5 and len({round(one, 3) for one in found}) > 5


@pytest.mark.slow
def test_names_and_labels_are_there_for_all_readers(page):
    found = page(
        """
        const nameless = [...root.querySelectorAll("button, input, [role=button], [role=group]")].filter((one) =>
          !(one.getAttribute("aria-label") || one.closest("label") || one.textContent.trim()));
        const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
        const [low, high] = [document.documentElement.scrollWidth, window.innerWidth];
        const twice = ids.length - new Set(ids).size;
        return { nameless: nameless.length, twice, wide: low > high, text: root.textContent.length };
        """,
        width=420,
        selected="logits",
    )
    assert found["nameless"] == 0 and found["twice"] == 0 and not found["wide"] and found["text"] > 500
