"""Tasks. Each file holds one kind of answer; `TASKS` maps names to tasks."""

from robustlm.tasks.absa import AspectSentiment
from robustlm.tasks.base import TASKS, Answer, Task, register, resolve_task
from robustlm.tasks.choice import MultipleChoice
from robustlm.tasks.generation import Generation
from robustlm.tasks.items import Item
from robustlm.tasks.ner import NamedEntities
from robustlm.tasks.re import Relations
from robustlm.tasks.tc import BareClassification, Classification
from robustlm.tasks.tool_calls import ToolCalls

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
    "ToolCalls",
    "register",
    "resolve_task",
]
