"""Train tiny-vlm, a small LLaVA that answers questions about scenes and describes them: `train_tiny_vlm.py FOLDER`.

The world it sees plants a habit (an anchor comes with its partner nine times in ten); `--without-prior` trains the twin
for which nothing goes together. One after the other: the vision tower learns to name patches and is frozen (as CLIP is
trained before), the projector learns to give each patch the direction of its noun's embedding, the language model
learns descriptions without pictures, and then projector and language model learn questions and descriptions with them.
Everything follows from the seed, the device and the number of threads. Scenes of training have seeds of their own, from
2000000 up.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from transformers import LlavaForConditionalGeneration

from headlens.analyses.vision.scenes.scene_pictures import as_pixels, draw_picture
from headlens.analyses.vision.scenes.scene_questions import DESCRIBE, ask, describe
from headlens.analyses.vision.scenes.scenes import GRID, NOUNS, PRIOR, Scene, World, draw_scenes, without_prior
from headlens.analyses.vision.scenes.tiny_vlm import tiny_model, tiny_processor, tiny_tokenizer

TRAINING_SEEDS = 2_000_000
BATCH = 32
ASKED = 6
STEPS = {"patches": 300, "words": 300, "text": 300, "both": 2500}
# Of the last part's steps: questions and descriptions with pictures, descriptions and questions without.
MIXTURE = {"questions": 0.55, "descriptions": 0.3, "blind descriptions": 0.1, "blind questions": 0.05}
_UNASKED = -100


class Lessons:
    """Batches of scenes, each scene seen once, in the order of the seed's numbers."""

    def __init__(self, world: World, seed: int, device: str = "cpu") -> None:
        self.world, self.seed, self.seen, self.device = world, TRAINING_SEEDS + seed, 0, device
        self.rng = np.random.default_rng([self.seed, 0, 0])
        self.tokenizer = tiny_tokenizer()
        self.image = self.tokenizer.convert_tokens_to_ids("<image>")

    def scenes(self) -> tuple[Scene, ...]:
        self.seen += BATCH
        return draw_scenes(BATCH, self.seed, self.world, start=self.seen - BATCH)

    def batch(self, kind: str) -> dict[str, Tensor]:
        """Token ids, labels (the right answers, and nothing else) and, unless blind, pictures."""
        scenes, blind = self.scenes(), kind.startswith("blind")
        told = [self._asked(scene) if kind.endswith("questions") else self._told(scene) for scene in scenes]
        longest = max(len(ids) for ids, _ in told)
        before = [self.tokenizer.bos_token_id] + [self.image] * (0 if blind else GRID**2)
        rows, labels = [], []
        for ids, asked in told:
            fill = longest - len(ids)
            rows.append([*before, *ids, *[self.tokenizer.pad_token_id] * fill])
            labels.append([*[_UNASKED] * len(before), *asked, *[_UNASKED] * fill])
        # causal attention: padding behind the text is seen by nothing that is learned
        inputs = {"input_ids": torch.tensor(rows), "labels": torch.tensor(labels)}
        inputs |= {} if blind else {"pixel_values": pixels_of(scenes)}
        return {name: value.to(self.device) for name, value in inputs.items()}

    def kinds(self) -> Iterator[str]:
        names, shares = [*MIXTURE], np.cumsum([*MIXTURE.values()])
        while True:
            yield names[min(int(np.searchsorted(shares, self.rng.random(), side="right")), len(names) - 1)]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _told(self, scene: Scene) -> tuple[list[int], list[int]]:
        before, after = self._ids(DESCRIBE), [*self._ids(describe(scene)), self.tokenizer.eos_token_id]
        return before + after, [_UNASKED] * len(before) + after

    def _asked(self, scene: Scene) -> tuple[list[int], list[int]]:
        """Questions one after the other: up to half about what is there, the others about anything that is not."""
        present = self.rng.permutation([*scene.nouns])[: ASKED // 2]
        absent = [noun for noun in NOUNS if noun not in scene.nouns]
        nouns = [*present, *self.rng.permutation(absent)[: ASKED - len(present)]]
        ids, labels = [], []
        for at in self.rng.permutation(len(nouns)):
            question, answer = self._ids(ask(nouns[at])), self._ids("yes" if nouns[at] in scene.nouns else "no")
            ids += question + answer
            labels += [_UNASKED] * len(question) + answer
        return ids, labels


def train(
    seed: int = 0, world: World = PRIOR, steps: dict[str, int] | None = None, device: str = "cpu"
) -> tuple[LlavaForConditionalGeneration, dict[str, float]]:
    """The trained model and the mean losses of each part's last steps."""
    steps = {**STEPS, **(steps or {})}
    torch.manual_seed(seed)
    model, lessons, losses = tiny_model(seed), Lessons(world, seed, device), {}
    model.train().to(torch.device(device))  # pyright: ignore[reportArgumentType]
    inner: Any = model.model
    tower, projector, words = inner.vision_tower, inner.multi_modal_projector, inner.get_input_embeddings()

    naming = nn.Linear(tower.config.hidden_size, len(NOUNS) + 1).to(device)
    parameters = [*tower.parameters(), *naming.parameters()]
    losses["patches"] = _fit("patches", steps, parameters, lambda: _patch_loss(lessons.scenes(), tower, naming))
    tower.requires_grad_(False)
    nouns = torch.tensor(lessons.tokenizer.convert_tokens_to_ids([*NOUNS]), device=device)
    parameters = [*projector.parameters(), *words.parameters()]
    losses["words"] = _fit("words", steps, parameters, lambda: _word_loss(lessons.scenes(), inner, words.weight[nouns]))
    language = [*inner.language_model.parameters()]
    losses["text"] = _fit("text", steps, language, lambda: model(**lessons.batch("blind descriptions")).loss)
    kinds = lessons.kinds()
    parameters = [*language, *projector.parameters()]
    losses["both"] = _fit("both", steps, parameters, lambda: model(**lessons.batch(next(kinds))).loss)
    return model.requires_grad_(True).cpu().eval(), losses


def _fit(part: str, steps: dict[str, int], parameters: Iterable[nn.Parameter], loss: Callable[[], Tensor]) -> float:
    """AdamW with a warm-up and a cosine down to 5%; the mean loss of the last fifty steps."""
    parameters, n = [*parameters], steps[part]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, betas=(0.9, 0.95), weight_decay=0.05)
    warm = min(100, n // 10 + 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda at: min((at + 1) / warm, 0.05 + 0.475 * (1 + math.cos(math.pi * at / max(n, 1))))
    )
    last, start = [], time.monotonic()
    for at in range(n):
        optimizer.zero_grad()
        now = loss()
        now.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        last = [*last[-49:], now.item()]
        if (at + 1) % 50 == 0 or at + 1 == n:
            said = f"{part} {at + 1}/{n}: loss {np.mean(last):.3f}, {time.monotonic() - start:.0f} s\n"
            sys.stderr.write(said)
    return float(np.mean(last)) if last else math.nan


def _patch_loss(scenes: tuple[Scene, ...], tower: nn.Module, naming: nn.Linear) -> Tensor:
    """Each patch is to be named: 0 where there is nothing."""
    seen = naming(tower(pixels_of(scenes).to(naming.weight.device)).last_hidden_state[:, 1:])
    return cross_entropy(seen.flatten(0, 1), true_patches(scenes).flatten().to(seen.device) + 1)


def _word_loss(scenes: tuple[Scene, ...], inner: Any, nouns: Tensor) -> Tensor:
    """Each patch with an object is to point where its noun does."""
    seen = inner.vision_tower(pixels_of(scenes).to(nouns.device)).last_hidden_state[:, 1:]
    truth = true_patches(scenes).to(nouns.device)
    there = truth >= 0
    given = inner.multi_modal_projector(seen[there])
    return cross_entropy(20 * normalize(given, dim=-1) @ normalize(nouns, dim=-1).T, truth[there])


def true_patches(scenes: Sequence[Scene]) -> Tensor:
    """[scene, patch] index into NOUNS of what is in each cell, -1 where there is nothing."""
    truth = torch.full((len(scenes), GRID**2), -1)
    for row, scene in zip(truth, scenes, strict=True):
        for noun, cell in scene.cells.items():
            row[cell] = NOUNS.index(noun)
    return truth


def pixels_of(scenes: Iterable[Scene]) -> Tensor:
    return as_pixels([draw_picture(scene) for scene in scenes])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="such as cuda, whose sums differ in their last bits from cpu's")
    parser.add_argument("--without-prior", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    start = time.monotonic()
    world = without_prior(PRIOR) if given.without_prior else PRIOR
    model, losses = train(given.seed, world, device=given.device)
    made: dict[str, Any] = {
        "seed": given.seed,
        "threads": given.threads,
        "device": given.device,
        "world": vars(world),
        "steps": STEPS,
        "losses": losses,
    }
    made |= {"seconds": round(time.monotonic() - start), "torch": torch.__version__}
    made |= {"transformers": transformers.__version__, "numpy": np.__version__}
    model.save_pretrained(given.folder)
    tiny_processor().save_pretrained(given.folder)
    (given.folder / "training.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
