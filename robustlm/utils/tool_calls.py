"""Messages of chats with tools as plain data, and calls of tools as text.

A call is written as `<tool_call>{"name": …, "arguments": {…}}</tool_call>` in tables, whatever form a chat template or
an endpoint has for it. `calls_in` reads this form and those of published models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

OPEN, CLOSE = "<tool_call>", "</tool_call>"

_NAMES = ("name", "tool_name")
_ARGUMENTS = ("arguments", "parameters")
_NAMED = re.compile(r"<function=([\w.-]+)>|function(?:<[^>\s]*>)?([\w.-]+)\s*```(?:json)?\s*(?=\{)")
"""A name that stands before its arguments: custom tools of Llama 3.1, DeepSeek."""
_DECODER = json.JSONDecoder()


def message_of(role: str, text: str, more: str = "") -> dict[str, object]:
    """A message of a chat as chat templates and endpoints take it.

    Args:
        role: Its role.
        text: Its text.
        more: Its other fields, as JSON; empty: none. If the message has no text, its `content` is the one in these
            fields (null, an empty text, or none at all).
    """
    if not more:
        return {"role": role, "content": text}
    given: dict[str, object] = json.loads(more)
    return {"role": role, **given, **({"content": text} if text else {})}


def with_objects(message: Mapping[str, object]) -> dict[str, object]:
    """The message with the arguments of its calls as objects, which chat templates expect."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return dict(message)
    return {**message, "tool_calls": [_decoded(call) for call in calls]}


def with_texts(message: Mapping[str, object]) -> dict[str, object]:
    """The message with the arguments of its calls as JSON text, which endpoints expect; texts stay as they are."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return dict(message)
    return {**message, "tool_calls": [_encoded(call) for call in calls]}


def as_text(calls: Sequence[object], text: str = "") -> str:
    """Calls as the text of tables, after the text of their message, a line each.

    Example:
        >>> as_text([{"function": {"name": "weather", "arguments": {"city": "Oslo"}}}])
        '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
    """
    lines = [text.strip()] if text.strip() else []
    for call in calls:
        name, arguments = name_and_arguments(call)
        lines.append(OPEN + json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False) + CLOSE)
    return "\n".join(lines)


def name_and_arguments(call: object) -> tuple[str, object]:
    """Name and arguments of a call in the form of OpenAI or of transformers; arguments that are JSON are decoded.

    Raises:
        ValueError: It has no name, or its arguments are neither an object nor the JSON text of one.
    """
    inner = call.get("function", call) if isinstance(call, Mapping) else None
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(name, str) or not name.strip():
        raise ValueError("expected an object {function: {name, arguments}}")
    arguments = inner.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError:
            raise ValueError(f"the arguments of {name!r} are no JSON; expected an object, or its JSON text") from None
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise ValueError(f"the arguments of {name!r} are no object; expected an object, or its JSON text")
    return name, arguments


def calls_in(text: str) -> list[tuple[str, str]]:
    """Name and arguments of each call in what a model wrote; arguments are JSON with sorted keys.

    A call is a JSON object with `name` (`tool_name`) and `arguments` (`parameters`), alone or in a list, whatever
    stands around it: so write Hermes, Qwen, Mistral, Llama 3, Granite, Phi-4 and Command R. Or it is an object of
    arguments after `<function=NAME>` (Llama 3.1) or ``functionNAME```json`` (DeepSeek).

    Example:
        >>> calls_in('Let me see. [TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Oslo"}}]')
        [('weather', '{"city": "Oslo"}')]
    """
    found: list[tuple[str, object]] = []
    for name, value in _values(text):
        if name:
            found += [(name, value)] if isinstance(value, Mapping) else []
        else:
            found += [call for one in (value if isinstance(value, list) else [value]) if (call := _call(one))]
    return [(name, json.dumps(value, ensure_ascii=False, sort_keys=True)) for name, value in found]


def _values(text: str) -> Iterator[tuple[str, object]]:
    """The outermost JSON objects and lists in a text, each with the name of a function that stands before it."""
    at = 0
    while True:
        starts = [start for mark in "{[" if (start := text.find(mark, at)) >= 0]
        if not starts:
            return
        start = min(starts)
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            at = start + 1
            continue
        named = [match for match in _NAMED.finditer(text, at, start + 1) if match.end() == start]
        yield (named[-1][1] or named[-1][2]) if named else "", value
        at = end


def _call(value: object) -> tuple[str, object] | None:
    """Name and arguments of a call, if a JSON value is one."""
    if not isinstance(value, Mapping):
        return None
    inner = value.get("function") if isinstance(value.get("function"), Mapping) else value
    assert isinstance(inner, Mapping)
    name = next((inner[key] for key in _NAMES if isinstance(inner.get(key), str)), None)
    arguments = next((inner[key] for key in _ARGUMENTS if key in inner), None)
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return None
    return (name, arguments) if name and name.strip() and isinstance(arguments, Mapping) else None


def _decoded(call: object) -> object:
    """The call with its arguments as an object."""
    inner = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(inner, Mapping) or not isinstance(inner.get("arguments"), str):
        return call
    whole = {**inner, "arguments": name_and_arguments(call)[1]}
    return {**call, "function": whole} if "function" in call else whole


def _encoded(call: object) -> object:
    """The call with its arguments as JSON text."""
    inner = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(inner, Mapping) or isinstance(inner.get("arguments"), str):
        return call
    whole = {**inner, "arguments": json.dumps(inner.get("arguments") or {}, ensure_ascii=False)}
    return {**call, "function": whole} if "function" in call else whole
