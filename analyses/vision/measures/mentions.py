"""Which objects a text names: a table of names, searched word by word, the longest name first."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

Classes = Sequence[str] | Mapping[str, str | None]


@dataclass(frozen=True, eq=False)
class NameTable:
    """From names, of one word or several, to classes; a name of None is passed over ("hot dog stand" is no dog)."""

    names: Mapping[str, str | None]

    def __post_init__(self) -> None:
        empty = [name for name in self.names if not _words(name)]
        if empty or not self.names:
            raise ValueError(f"The names are {sorted(self.names)[:5]}; expected names that have a letter or a digit.")
        by_words: dict[tuple[str, ...], str | None] = {}
        for name, own in self.names.items():
            if by_words.setdefault(tuple(_words(name)), own) != own:
                raise ValueError(
                    f"The name {name!r} is given for two classes; capitals and hyphens make no difference."
                )
        object.__setattr__(self, "names", dict(self.names))

    @property
    def classes(self) -> tuple[str, ...]:
        """Every class, sorted."""
        return tuple(sorted({own for own in self.names.values() if own is not None}))

    @cached_property
    def _by_words(self) -> dict[tuple[str, ...], str | None]:
        return {tuple(_words(name)): own for name, own in self.names.items()}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._by_words))

    def mentions(self, text: str) -> tuple[str, ...]:
        """The classes that a text names, in its order, as often as it names them.

        Whole words, whatever their capitals; at each place the longest name counts and its words are used up; no name
        goes across a punctuation mark. A plural counts only where the table has it.
        """
        words, found, at = _words(text), [], 0
        while at < len(words):
            for size in range(min(self._longest, len(words) - at), 0, -1):
                name = tuple(words[at : at + size])
                if name in self._by_words:
                    own = self._by_words[name]
                    found += [own] if own is not None else []
                    at += size
                    break
            else:
                at += 1
        return tuple(found)

    def class_of(self, name: str) -> str:
        """The class of one name, or of a class by its own name. ValueError for a name that the table lacks."""
        own = self._by_words.get(tuple(_words(name)))
        if own is None and name in self.classes:
            own = name
        if own is None:
            raise ValueError(f"The object {name!r} is none of the names in the table; add it, with the class it is of.")
        return own


def name_table(classes: Classes) -> NameTable:
    """A table from a list of classes, or from names with their classes, {"puppy": "dog"}; a class names itself too.

    ValueError for no names, a name without letters or digits, or one name for two classes.
    """
    if not isinstance(classes, Mapping):
        return NameTable({name: name for name in classes})
    known = {tuple(_words(name)) for name in classes}
    themselves = {own for own in classes.values() if own is not None and tuple(_words(own)) not in known}
    return NameTable({**classes, **{own: own for own in sorted(themselves)}})


def _words(text: str) -> list[str]:
    """Words and the punctuation marks between them; hyphens and apostrophes only divide words."""
    return re.findall(r"[^\W_]+|[^\w\s'\u2019-]", text.casefold())
