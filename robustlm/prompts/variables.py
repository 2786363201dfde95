"""The variables of a chat template, such as a switch for thinking."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from jinja2 import Environment, TemplateError, meta

Variables = Mapping[str, bool | int | float | str]
"""Values of a chat template's variables, by name."""
SETTING = "data.chat_template_kwargs"
_GENERATION = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")
RESERVED = {
    *("conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt", "tokenize"),
    *("continue_final_message", "sanitize_control_tokens", "padding", "truncation", "max_length", "tokenizer_kwargs"),
    *("return_tensors", "return_dict", "return_assistant_tokens_mask", "self", "kwargs"),
    *("bos_token", "eos_token", "pad_token", "unk_token"),
}
"""Names that have a meaning of their own where transformers applies a chat template."""
_GIVEN = {"raise_exception", "strftime_now", "namespace", "dict", "range", "cycler", "joiner", "lipsum"}
"""Names that every chat template can read."""


def source_of(template: object) -> str:
    """The source of a tokenizer's chat template; of several by name, all of them."""
    return "\n".join(map(str, template.values())) if isinstance(template, Mapping) else str(template)


def variables_of(source: str) -> list[str]:
    """Names of the variables that a chat template reads, in alphabetical order; empty if that cannot be told."""
    try:
        # parsed, never run; `generation` is a tag of transformers, which holds text and decides nothing
        tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_GENERATION.sub("", source))
        return sorted(meta.find_undeclared_variables(tree) - RESERVED - _GIVEN)
    except TemplateError:
        return []


def check_values(values: object) -> None:
    """Raise `ValueError` if the setting is neither null nor a mapping of plain values by name."""
    if values is None:
        return
    items = list(values.items()) if isinstance(values, Mapping) else [(None, values)]
    if not all(isinstance(name, str) and isinstance(value, bool | int | float | str) for name, value in items):
        raise ValueError(f"{SETTING}: found {values!r}; expected numbers, texts, true or false by name, or null")


def check_variables(values: Variables, source: str) -> None:
    """Raise `ValueError` for a variable that a chat template does not read, since it would change nothing."""
    known = variables_of(source)
    for name in values:
        if name in RESERVED:
            raise ValueError(
                f"{SETTING}: found {name!r}, which robustlm sets itself; expected the template's own variables"
            )
        if not re.search(rf"\b{re.escape(name)}\b", source):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(
                f"{SETTING}: found {name!r}{hint}, which the tokenizer's chat template does not read; expected "
                + (f"some of {', '.join(known)}" if known else "null, as it reads no variables")
            )
