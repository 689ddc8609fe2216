"""From the text of an answer to yes, no, or neither."""

import re

_NEGATIONS = frozenset("no not none nope nothing never neither cannot".split())
_UNSURE = frozenset("know sure certain tell say determine doubt idea clear unclear unsure maybe perhaps".split())
_THERE = re.compile(r"(there (is|are|'s)|there's|yes there|i see|i can see|i do see)\b")


def parse_yes_no(text: str) -> str | None:
    """ "yes", "no", or None where the answer is neither: nothing, garbled, unsure, or both at once.

    Only the first sentence that holds a word and is no question counts, in whole words (there is no "no" in "know" or
    "another"). If it begins with yes or no, that is the answer: "No, there is a plate." Else a sentence is no if it
    denies something ("There is no cup.", "I don't see one."), and yes if it says yes or that something is there ("There
    is a cup."; of what, is not looked at). What says neither, as "A table." does, is None, and so is a denial of
    knowing ("I am not sure."). English only.
    """
    words = _words(_first_sentence(text))
    if not words:
        return None
    said = {"yes": "yes" in words, "no": "no" in words}
    if words[0] in said:
        other = "no" if words[0] == "yes" else "yes"
        # "yes or no", "yes and no", "yes no": an echo of the question, or both
        both = words[1:2] == [other] or (words[1:2] in (["or"], ["and"]) and words[2:3] == [other])
        return None if both or (words[0] == "no" and words[1:2] in (["doubt"], ["idea"])) else words[0]
    if all(said.values()) or not _UNSURE.isdisjoint(words):
        return None
    if any(word in _NEGATIONS or word.endswith("n't") for word in words):
        return "no"
    return "yes" if said["yes"] or _THERE.match(" ".join(words)) else None


def parse_as_pope(text: str) -> str:
    """ "yes" or "no" by the rule of POPE's released evaluation (2305.10355), to compare with published numbers.

    Of the text up to the first full stop, without commas, split at spaces: "no" if one of the words is No, no or not,
    and else "yes". So an empty or garbled answer is a yes, as are "NO", "no!", "None" and "There isn't one."; "I am not
    sure" is a no, and "Yes, there is no doubt" too.
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return "yes" if {"No", "no", "not"}.isdisjoint(words) else "no"


def _first_sentence(text: str) -> str:
    sentences = re.findall(r"[^.!?\n]+[.!?\n]?", text)
    return next((one for one in sentences if _words(one) and not one.endswith("?")), "")


def _words(text: str) -> list[str]:
    plain = text.replace("\u2019", "'").lower()
    return re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*", plain)
