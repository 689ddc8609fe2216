"""The tables [look], [divergence] and [redistribute]: what is asked of heads that read pictures."""

from typing import TYPE_CHECKING, Any, NamedTuple

from headlens.attention_tables import layers_of
from headlens.hooks.nearest import did_you_mean
from headlens.run_table import Listed, RunTable, parts

if TYPE_CHECKING:
    from headlens.analyses.vision.samples import Samples
    from headlens.hooks.model import Model
    from headlens.hooks.recalibrate import Recalibrate
    from headlens.hooks.sites import Head


class Looking(NamedTuple):
    """What a look is of: the answer's tokens, or None where the model is to say them, and the heads that are shown."""

    answer: list[int] | None
    max_new_tokens: int
    heads: "tuple[Head, ...] | None"


class Moving(NamedTuple):
    """An edit that moves sinks' attention, the sinks in words, and what makes the same edit again."""

    edit: "Recalibrate"
    sinks: str
    settings: dict[str, Any]
    max_new_tokens: int


class LookTable(RunTable):
    """[look]: the arguments of `gaze`, and the heads that are shown."""

    answer: str | None = None
    max_new_tokens: int = 40
    heads: Listed = None

    def check(self) -> None:
        """ValueError for settings that fit no model."""
        from headlens.hooks.sites import parse_head

        check_tokens(self.max_new_tokens)
        for head in parts(self.heads) or []:
            parse_head(head)

    def fitted(self, model: "Model", task: "Samples") -> Looking:
        """ValueError for heads that the model does not have, or an answer that its tokenizer does not know."""
        from headlens.analyses.vision.answers import answer_ids
        from headlens.hooks.sites import parse_heads

        heads = parts(self.heads)
        return Looking(
            None if self.answer is None else answer_ids(model, self.answer),
            self.max_new_tokens,
            None if heads is None else parse_heads(heads, model.n_layers, model.n_heads),
        )

    def resolved(self, fitted: Looking) -> dict[str, Any]:
        """All that was asked for."""
        heads = None if fitted.heads is None else [str(head) for head in fitted.heads]
        said = {"answer": self.answer, "max_new_tokens": self.max_new_tokens, "heads": heads}
        return {key: value for key, value in said.items() if value is not None}


class DivergenceTable(RunTable):
    """[divergence]: the arguments of `headlens.divergence`."""

    without: str = "deleted"
    position: str | None = None
    relative: bool = False
    projected: bool = False
    zero_outliers: bool = False
    batch: int = 8

    def check(self) -> None:
        """ValueError for an unknown way to take the picture away, or a position that does not go with it."""
        from headlens.analyses.vision.divergence.image_free import POSITIONS, WAYS

        for name, given, known in (("without", self.without, WAYS), ("position", self.position, POSITIONS)):
            if given is not None and given not in known:
                raise ValueError(
                    f"--{name} {given} was given{did_you_mean(given, known)}; expected one of {', '.join(known)}."
                )
        if self.batch < 1:
            raise ValueError(f"batch={self.batch} was given; expected how many samples run at a time, at least 1.")

    def fitted(self, model: "Model", task: "Samples") -> dict[str, Any]:
        """The arguments. ValueError for samples whose picture cannot be taken away like that."""
        from headlens.analyses.vision.divergence.image_free import image_free

        if self.without != "mean":  # which needs runs; the samples are checked when it is made
            image_free(model, task, self.without, self.position, self.batch)
        return self.model_dump()

    def resolved(self, fitted: dict[str, Any]) -> dict[str, Any]:
        """All that is not left out."""
        return {key: value for key, value in fitted.items() if value is not None}


class RedistributeTable(RunTable):
    """[redistribute]: the arguments of `headlens.redistribute`. Layers may be text such as "2-29,31"."""

    move: float | None = None
    non_sink: float = 0.5
    floor: float = 0.2
    convention: str = "paper"
    dims: str | list[int] | None = None
    above: float | None = None
    layers: str | list[int] | None = None
    max_new_tokens: int = 40

    def check(self) -> None:
        """ValueError for shares outside of 0 to 1, an unknown convention, or numbers that are none."""
        from headlens.analyses.vision.redistribution.redistribution import CONVENTIONS

        check_tokens(self.max_new_tokens)
        if self.convention not in CONVENTIONS:
            hint = did_you_mean(self.convention, CONVENTIONS)
            known = ", ".join(CONVENTIONS)
            raise ValueError(f"Unknown convention {self.convention!r}{hint}; the conventions are {known}.")
        for name in ("move", "non_sink", "floor"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name}={share} was given; expected a share of attention, 0 to 1.")
        if self.above is not None and not self.above > 0:
            raise ValueError(f"above={self.above} was given; expected a positive number of root mean squares.")
        _dims(self.dims)
        layers_of(self.layers)

    def fitted(self, model: "Model", task: "Samples") -> Moving:
        """The edit. ValueError for layers that the model does not have, or where it has no sink dimensions."""
        from headlens.analyses.vision.redistribution.redistribution import CONVENTIONS, redistribute
        from headlens.analyses.vision.redistribution.sink_dimensions import sink_dimensions, sink_threshold
        from headlens.hooks.sites import parse_heads

        dims, above, layers = _dims(self.dims), self.above, layers_of(self.layers)
        if dims is not None and not all(0 <= dim < model.d_model for dim in dims):
            raise ValueError(
                f"--dims {dims} were given; the residual stream of {model.name} has 0..{model.d_model - 1}."
            )
        shares = {"move": self.move, "non_sink": self.non_sink, "floor": self.floor, "convention": self.convention}

        def edit(dims: list[int]) -> "Recalibrate":
            return redistribute(model, dims=dims, above=above, layers=layers, **shares)

        # layers are checked, and those of the convention known, before a sink is looked for
        probe = parse_heads(edit([0]).heads, model.n_layers, model.n_heads)
        layers = sorted({head.layer for head in probe})
        above = sink_threshold(model.d_model) if above is None else above
        if dims is None:
            found = sink_dimensions(model, task, above=above, layers=layers)
            if not found.dims:
                raise ValueError(found.described().replace("dims= and above=", "--dims and --above"))
            dims, sinks = [*found.dims], found.described()
        else:
            listed = ", ".join(map(str, dims))
            sinks = f"Sinks are tokens above {above:.2f} root mean squares in dimension {listed}, as was given."
        named = CONVENTIONS[self.convention]
        move = named.move() if self.move is None else self.move
        settings = {**shares, "move": move, "dims": dims, "above": above, "layers": layers}
        return Moving(edit(dims), sinks, settings, self.max_new_tokens)

    def resolved(self, fitted: Moving) -> dict[str, Any]:
        """All of it, with the dims and layers that it came to."""
        return {**fitted.settings, "max_new_tokens": self.max_new_tokens}


def check_tokens(most: int) -> None:
    """ValueError for an answer of no tokens."""
    if most < 1:
        raise ValueError(f"max_new_tokens={most} was given; expected at least 1 token to say.")


def _dims(given: str | list[int] | None) -> list[int] | None:
    """Text such as "1415,2533" as numbers."""
    if not isinstance(given, str):
        return given
    texts = [text.strip() for text in given.split(",")]
    if not all(text.isdecimal() for text in texts):
        raise ValueError(f"--dims {given} was given; write the dimensions as numbers with commas, such as 1415,2533.")
    return [int(text) for text in texts]
