"""Groups named by words resolved to token ids: which tokens of a vocabulary are punctuation, numbers, image patches."""

import unicodedata
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from headlens.hooks.groups import KINDS, Either, Group, Image, Kind, TokenIds, Words

_kinds: "WeakKeyDictionary[Any, tuple[int, dict[str, TokenIds]]]" = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Resolving:
    """Turns groups that a tokenizer or a model's configuration must explain into token ids."""

    tokenizer: Any
    config: Any

    def __call__(self, group: Group) -> Group:
        """The same group without words. ValueError where a word is not one token, or there is no tokenizer."""
        match group:
            case Kind(name):
                return token_kinds(self._known())[name]
            case Words(texts):
                return TokenIds(tuple(self._one_token(text) for text in texts))
            case Image():
                return TokenIds((self._image_token(),))
            case Either(groups):
                return Either(tuple(self(each) for each in groups))
            case _:
                return group

    def _known(self) -> Any:
        if self.tokenizer is None:
            raise ValueError(
                "Groups named by words need a tokenizer, and this model was loaded without one; load it "
                "with tokenizer=, or give TokenIds."
            )
        # a processor carries the tokenizer of its text
        return getattr(self.tokenizer, "tokenizer", self.tokenizer)

    def _one_token(self, text: str) -> int:
        # a text that is a piece itself: sentencepiece would put a space before it
        own = self._known().get_vocab().get(text)
        if own is not None:
            return own
        ids = self._known()(text, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            pieces = self._known().convert_ids_to_tokens(ids)
            raise ValueError(f"{text!r} is not one token of this model but {pieces}; a group has single tokens.")
        return ids[0]

    def _image_token(self) -> int:
        for name in ("image_token_id", "image_token_index"):
            if getattr(self.config, name, None) is not None:
                return getattr(self.config, name)
        raise ValueError(
            f"{type(self.config).__name__} names no image token, so this model has no image patches to group."
        )


def token_kinds(tokenizer: Any) -> dict[str, TokenIds]:
    """Every token of a vocabulary by its kind; a token of none of them is in no group."""
    known = _kinds.get(tokenizer)
    # tokens may have been added since
    if known is None or known[0] != len(tokenizer):
        by_kind: dict[str, list[int]] = {kind: [] for kind in KINDS}
        special = {*tokenizer.all_special_ids}
        ids = range(len(tokenizer))
        pieces = tokenizer.convert_ids_to_tokens([*ids])
        for token, piece, text in zip(ids, pieces, tokenizer.batch_decode([[token] for token in ids]), strict=True):
            # sentencepiece decodes without the first space, of which nothing is left where it is all
            kind = "special" if token in special else kind_of(" " if piece == "\N{LOWER ONE EIGHTH BLOCK}" else text)
            if kind is not None:
                by_kind[kind].append(token)
        known = len(tokenizer), {kind: TokenIds(tuple(ids)) for kind, ids in by_kind.items()}
        _kinds[tokenizer] = known
    return known[1]


def kind_of(text: str) -> str | None:
    """newline, space, punctuation (also symbols), number or word (any letter).

    None for what is none of these: broken bytes, control characters, 10%, lone accents.
    """
    if "\n" in text:
        return "newline"
    bare = text.strip()
    if not bare:
        return "space" if text else None
    if all(unicodedata.category(letter)[0] in "PS" for letter in bare):
        return None if {*bare} == {"\N{REPLACEMENT CHARACTER}"} else "punctuation"
    if all(letter.isdigit() for letter in bare):
        return "number"
    return "word" if any(letter.isalpha() for letter in bare) else None
