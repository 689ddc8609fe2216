"""T-VHD: do hallucinated words of descriptions depend less on the picture, whatever the word and its place?"""

from headlens.analyses.tokens import tokenizer_of
from headlens.analyses.vision.divergence.token_auroc import TokenMentions, token_mentions
from headlens.analyses.vision.divergence.token_divergence import token_divergence
from headlens.analyses.vision.gates.figures import Figure
from headlens.analyses.vision.gates.reinforced_captions import described
from headlens.analyses.vision.gates.results import Results, combined, over_seeds
from headlens.analyses.vision.gates.setting import CLEAR, CLEARLY_PARTED, Setting
from headlens.analyses.vision.measures.chair_result import Chair
from headlens.analyses.vision.scenes.scenes import ANCHORS, NOUNS, World

MEASURES = ("auroc", "auroc_within_words", "auroc_within_places", "auroc_within_both")


def told_words(setting: Setting, parted: Results) -> list[Figure]:
    """Areas for greedy descriptions of clear scenes: those of the world as trained, and `parted`, those of scenes whose
    partners are missing; for all nouns and for partners alone, which are all that the habit adds."""
    clear = over_seeds([described(setting, setting.descriptions(seed, CLEAR)) for seed in setting.seeds])
    figures = []
    for name, captions, world in (("as trained", clear, CLEAR), ("parted", parted, CLEARLY_PARTED)):
        setting.say(f"T-VHD of descriptions, {name}")
        pairs = zip(setting.seeds, captions.each, strict=True)
        found = over_seeds([_mentions(setting, seed, own, world) for seed, own in pairs])
        only = combined(lambda one: one.of(ANCHORS.values()), found)
        for about, own in {"all nouns": found, "partners": only}.items():
            about = f"T-VHD, {name}, clear: {about}"
            figures += [own.figure("T-VHD", about, measure, setting.resamples) for measure in MEASURES]
            figures.append(Figure("T-VHD", about, "mentions", float(len(own.whole))))
            figures.append(Figure("T-VHD", about, "hallucinated mentions", float((~own.whole.there).sum())))
            figures += [
                Figure("T-VHD", about, f"pairs of {measure}", float(own.whole.pairs(measure))) for measure in MEASURES
            ]
    return figures


def _mentions(setting: Setting, seed: int, captions: Chair, world: World) -> TokenMentions:
    samples = setting.descriptions(seed, world)
    vocabulary = tokenizer_of(setting.model).get_vocab()
    words = {vocabulary[noun]: noun for noun in NOUNS}
    said = [at for at, one in enumerate(captions.captions) if one.tokens]
    series = token_divergence(
        setting.model, samples.subset(said), [captions.captions[at].tokens for at in said], progress=False
    )
    objects = [captions.captions[at].objects for at in said]
    return token_mentions(series, words, objects, [captions.clusters[at] for at in said])
