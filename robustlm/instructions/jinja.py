"""Templates of PromptSource: jinja with input and target, turned into instructions with slots.

A template is data from elsewhere. Its input is never run: it is parsed, and only plain values are taken over. Its
target runs in jinja's sandbox, and only if it holds nothing but conditions and answer choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from robustlm.instructions.slots import CASED, CASES

if TYPE_CHECKING:
    from jinja2 import Environment, nodes

_DIVIDER = "|||"
_CHOICES = "answer_choices"
_LONGEST = 20_000
"""Characters of a template; the longest published one has fewer than 4,000."""


class UnusableTemplateError(ValueError):
    """A template that cannot become an instruction; the message is the reason."""


def is_jinja(template: Mapping[str, object]) -> bool:
    """Whether an object is a template of PromptSource, by its keys."""
    return _CHOICES in template and ("jinja" in template or "template" in template)


def converted(template: Mapping[str, object]) -> tuple[str, tuple[str, ...]]:
    """The instruction, with slots for the row's fields, and the answer for each number of a label.

    Args:
        template: An object with `jinja` (or `template`) and `answer_choices`: a list, or a text with `|||` between.

    Raises:
        UnusableTemplateError: The template asks for something else than one of its answer choices, or it cannot be
            written with slots.
    """
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    source = template.get("jinja", template.get("template"))
    if not isinstance(source, str) or not source.strip():
        raise UnusableTemplateError("it has no text")
    if len(source) > _LONGEST:
        raise UnusableTemplateError(f"it has {len(source):,} characters, and at most {_LONGEST:,} are read")
    metadata = template.get("metadata")
    original = metadata.get("original_task") if isinstance(metadata, Mapping) else template.get("original_task")
    if original is False:
        raise UnusableTemplateError("it asks for another task than the dataset's (original_task is false)")
    choices = _choices(template.get(_CHOICES))
    shown, divider, target = source.partition(_DIVIDER)
    if not divider or _DIVIDER in target:
        raise UnusableTemplateError(f"its text has {source.count(_DIVIDER)} dividers {_DIVIDER}, and needs one")
    environment = ImmutableSandboxedEnvironment()
    try:
        text = _slotted(environment.parse(shown), choices).strip()
        answers = _answers(environment, target, choices)
    except (TemplateError, RecursionError) as error:
        raise UnusableTemplateError(f"its jinja cannot be read ({error})") from None
    if not text:
        raise UnusableTemplateError("its input is empty")
    return text, answers


def _choices(given: object) -> tuple[str, ...]:
    parts = given.split(_DIVIDER) if isinstance(given, str) else given
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise UnusableTemplateError("it has no answer_choices")
    found = tuple(" ".join(part.split()) for part in parts)
    if any("{{" in part or "{%" in part for part in found):
        raise UnusableTemplateError("its answer_choices depend on the row")
    if len(found) < 2 or len(set(found)) < len(found) or not all(found):
        raise UnusableTemplateError("its answer_choices are not two or more different texts")
    return found


def _slotted(template: nodes.Template, choices: tuple[str, ...]) -> str:
    from jinja2 import nodes

    found = []
    for part in template.body:
        if not isinstance(part, nodes.Output):
            raise UnusableTemplateError(f"its input holds a statement ({type(part).__name__.lower()})")
        found += [_piece(one, choices) for one in part.nodes]
    return "".join(found)


def _piece(node: nodes.Node, choices: tuple[str, ...]) -> str:
    """Text for a part of an input: itself, a constant, answer choices, or a slot for a field of the row."""
    from jinja2 import nodes

    if isinstance(node, nodes.TemplateData):
        return node.data
    if isinstance(node, nodes.Const):
        return str(node.value)
    if isinstance(node, nodes.Name) and node.name != _CHOICES:
        return f"{{{node.name}}}"
    if (cased := _cased(node)) is not None:
        return f"{{{cased}}}"
    listed = node.node if isinstance(node, nodes.Getitem | nodes.Filter) else None
    if isinstance(listed, nodes.Name) and listed.name == _CHOICES:
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and _is_place(node.arg.value, choices):
            return str(choices[node.arg.value])
        if isinstance(node, nodes.Filter) and node.name == "join" and not node.kwargs:
            joint = node.args[0] if node.args else nodes.Const("")
            if isinstance(joint, nodes.Const) and isinstance(joint.value, str):
                return str(joint.value).join(choices)
    raise UnusableTemplateError("its input computes a value from the row, and does not only show a field")


def _cased(node: nodes.Node) -> str | None:
    """The slot for a field in another case (`{{word.lower()}}` and `{{word | lower}}` are `{word__lower}`)."""
    from jinja2 import nodes

    inner: nodes.Expr | None
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) and not (node.args or node.kwargs):
        inner, how = node.node.node, node.node.attr
    elif isinstance(node, nodes.Filter) and not (node.args or node.kwargs):
        inner, how = node.node, node.name
    else:
        return None
    fits = isinstance(inner, nodes.Name) and inner.name != _CHOICES and how in CASES
    return f"{inner.name}{CASED}{how}" if fits and isinstance(inner, nodes.Name) else None


def _is_place(value: object, choices: tuple[str, ...]) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -len(choices) <= value < len(choices)


def _answers(environment: Environment, target: str, choices: tuple[str, ...]) -> tuple[str, ...]:
    """The text of the target for each number of a label."""
    from jinja2 import meta, nodes

    allowed = (
        nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.Getitem, nodes.Name, nodes.Const,
        nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.Not, nodes.And, nodes.Or, nodes.Neg,
    )  # fmt: skip
    tree = environment.parse(target)
    if any(not isinstance(node, allowed) for node in tree.find_all(nodes.Node)):
        raise UnusableTemplateError("its target is not one of its answer choices")
    asked = meta.find_undeclared_variables(tree) - {_CHOICES}
    if len(asked) != 1:
        raise UnusableTemplateError("its target does not depend on the row's label alone")
    (label,) = asked
    rendered = environment.from_string(target)
    try:
        found = tuple(
            " ".join(rendered.render({label: at, _CHOICES: list(choices)}).split()) for at in range(len(choices))
        )
    except Exception:  # jinja raises errors of any kind for values of a type that it does not expect
        raise UnusableTemplateError("its target cannot be rendered from the number of a label") from None
    if set(found) != set(choices):
        raise UnusableTemplateError("its target is not one of its answer choices for each label")
    return found
