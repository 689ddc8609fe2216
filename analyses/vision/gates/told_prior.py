"""G3: without a picture, what the model tells of an anchor is the habit of its world."""

import numpy as np
import torch

from headlens.analyses.tokens import tokenizer_of
from headlens.analyses.vision.gates.figures import Figure, Gate, at_most, judged
from headlens.analyses.vision.gates.results import Means, Results, over_seeds
from headlens.analyses.vision.gates.setting import Setting
from headlens.analyses.vision.measures.estimates import value_of
from headlens.analyses.vision.samples import Samples
from headlens.analyses.vision.scenes.scene_questions import DESCRIBE, describe
from headlens.analyses.vision.scenes.scenes import ANCHORS, draw_scenes
from headlens.hooks.inputs import known_words

WITHIN = 0.05
BESIDE_IT = ("with", "a")


def told_without_picture(setting: Setting) -> tuple[list[Figure], Gate]:
    """The chance that the model, which has no picture and was just told of an anchor, goes on "with a PARTNER".

    It is P("with") P("a" | "with") P(partner | "with a"), each read off the next token behind "describe there is ... a
    ANCHOR", for every anchor in the full descriptions of fresh scenes of the model's world, with all that is told
    before it. In the world an anchor has its partner with the same chance whatever else is there, so that this chance
    is what each of them should be.
    """
    setting.say("descriptions without pictures")
    found = over_seeds([_told(setting, seed) for seed in setting.seeds])
    return habit_told(found, setting.world.beside_anchor, setting.resamples)


def habit_told(found: Results, planted: float, resamples: int) -> tuple[list[Figure], Gate]:
    """Figures and gate from each anchor's "P(with)" and "P(partner)"."""
    about = "anchor told, no picture"
    figures = [found.figure("G3", about, name, resamples) for name in ("P(with)", "P(partner)")]
    partner = figures[-1]
    distances = [abs(value_of(one, "P(partner)") - planted) for one in found.each]
    off = Figure(
        "G3",
        f"P(partner | {about})",
        f"distance from {planted:.3g}",
        abs(partner.value - planted),
        least=min(distances),
        most=max(distances),
    )
    claim = f"|P(partner | {about}) - {planted:.3g}, as planted| <= {WITHIN}"
    return [*figures, off], judged("G3", claim, [at_most(off, WITHIN)], f"P is {partner.value:.3f}")


def _told(setting: Setting, seed: int) -> Means:
    model = setting.model
    tokenizer = tokenizer_of(model)
    inputs, partners, clusters = [], [], []
    for scene in draw_scenes(setting.scenes, seed, setting.world):
        words = describe(scene).split()
        for at, word in enumerate(words):
            if word in ANCHORS:
                text = " ".join([DESCRIBE, *words[: at + 1], *BESIDE_IT])
                inputs.append({"input_ids": torch.tensor([tokenizer(text)["input_ids"]])})
                partners.append(ANCHORS[word])
                clusters.append(scene.name)
    wanted = torch.tensor([tokenizer.convert_tokens_to_ids([*BESIDE_IT, partner]) for partner in partners])
    chances = np.zeros((len(inputs), 3))
    spared = known_words(model.hf, logits_to_keep=3, use_cache=False)
    for indices, batch in Samples("told", tuple(inputs)).batches(4 * setting.batch):
        with torch.no_grad():
            likely = model(batch, **spared)[:, -3:].float().softmax(-1)
        chances[indices] = likely.gather(-1, wanted[indices][..., None])[..., 0].cpu().numpy()
    return Means({"P(with)": chances[:, 0], "P(partner)": chances.prod(1)}, tuple(clusters))
