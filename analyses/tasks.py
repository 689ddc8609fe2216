"""The tasks that come with headlens, by name; each maker is (model, n, seed, ...) -> Task.

A maker fills templates from data/tasks/ with words that its tokenizer can take, and refuses a tokenizer that
can take too few. Equal arguments give equal tasks.
"""

from collections.abc import Callable

from headlens.analyses.capitals import capitals as capitals
from headlens.analyses.colored_objects import colored_objects as colored_objects
from headlens.analyses.greater_than import greater_than as greater_than
from headlens.analyses.induction import induction as induction
from headlens.analyses.ioi import ioi as ioi
from headlens.analyses.lettered import lettered as lettered
from headlens.analyses.pronouns import pronouns as pronouns
from headlens.analyses.task import Task as Task
from headlens.analyses.vision.measures.own_data import image_descriptions as image_descriptions
from headlens.analyses.vision.measures.own_data import image_questions as image_questions
from headlens.analyses.vision.measures.own_data import questions_about as questions_about
from headlens.analyses.vision.scenes.scene_samples import scene_descriptions as scene_descriptions
from headlens.analyses.vision.scenes.scene_samples import scene_questions

# pictures with questions, as Samples
scenes = scene_questions

REGISTRY: dict[str, Callable[..., Task]] = {
    "ioi": ioi,
    "greater_than": greater_than,
    "induction": induction,
    "capitals": capitals,
    "pronouns": pronouns,
    "colored_objects": colored_objects,
    "lettered": lettered,
}
