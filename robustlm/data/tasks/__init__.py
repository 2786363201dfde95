"""Tasks: one kind of answer a file. `TASKS` maps names to tasks."""

from robustlm.data.tasks.absa import AspectSentiment
from robustlm.data.tasks.base import TASKS, Answer, Item, Task, register, resolve_task
from robustlm.data.tasks.choice import MultipleChoice
from robustlm.data.tasks.generation import Generation
from robustlm.data.tasks.ner import NamedEntities
from robustlm.data.tasks.re import Relations
from robustlm.data.tasks.tc import BareClassification, Classification

__all__ = [
    "TASKS",
    "Answer",
    "AspectSentiment",
    "BareClassification",
    "Classification",
    "Generation",
    "Item",
    "MultipleChoice",
    "NamedEntities",
    "Relations",
    "Task",
    "register",
    "resolve_task",
]
