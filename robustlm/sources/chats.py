"""Messages of chats in rows, with the tools that they offer and call."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from robustlm.rows.base import RowData
from robustlm.rows.fields import elements, optional, required, shown
from robustlm.sample import SYSTEM_ROLES, Turn
from robustlm.utils.tool_calls import name_and_arguments

TOOL = "tool"
ROLES = "user, assistant in turns"
"""The roles of a chat, for messages. Calls of tools and their results may stand between the two."""
_EXPECTED = "a list of objects {role, content}"
_CALLS = "a list of objects {function: {name, arguments}}"
_FIELDS = ("tool_calls", "tool_call_id", "name")
"""Fields of a message beside role and content that chat templates and endpoints are given."""


def messages_of(row: RowData, key: str) -> list[Turn]:
    """The messages of a chat, without empty system messages.

    Raises:
        ValueError: A message has no role or no text, or its calls of tools cannot be used.
    """
    said: list[Turn] = []
    for turn in elements(row, key, Mapping, _EXPECTED):  # type: ignore[type-abstract]  # isinstance takes it
        role = required(turn, "role")
        if turn.get("function_call"):
            found = f"function_call in a message of {shown(role)}, the older form of calls"
            raise ValueError(f"calls of tools: found {found}; expected tool_calls")
        if turn.get("tool_calls") and role != "assistant":
            found = f"tool_calls in a message of {shown(role)}"
            raise ValueError(f"calls of tools: found {found}; expected them in messages of the assistant")
        if role == TOOL or turn.get("tool_calls"):
            said.append((role, _text_of(turn, role), json.dumps(_more_of(turn), ensure_ascii=False)))
            continue
        text = (optional if role in SYSTEM_ROLES else required)(turn, "content").strip()
        if text or role not in SYSTEM_ROLES:
            said.append((role, text))
    return said


def is_chat(chat: Sequence[Turn]) -> bool:
    """Whether the roles of messages follow each other as in a chat: a user first, a result after each call of tools."""
    before = ""
    for turn in chat:
        role = turn[0]
        calls = role == "assistant" and len(turn) > 2
        if role not in _NEXT[before]:
            return False
        before = "calls" if calls else role
    return bool(chat)


_NEXT = {
    "": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "calls": (TOOL,),
    TOOL: (TOOL, "assistant"),
}
"""The roles that may follow a role; `calls` is an assistant that calls tools."""


def tools_of(row: RowData) -> str:
    """The tools that a row offers, as a JSON list; empty if it offers none.

    Raises:
        ValueError: `tools` is neither a list of objects nor its JSON text.
    """
    given = row.get("tools")
    if isinstance(given, str):
        given = _decoded(given, "tools") if given.strip() else None
    if given is None or given == [] or given == ():
        return ""
    tools = elements({"tools": given}, "tools", Mapping, "a list of objects {type, function}")  # type: ignore[type-abstract]
    for tool in tools:
        inner = tool.get("function", tool)
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise ValueError(f"wrong element of tools: found {shown(tool)}; expected an object with a function's name")
    return _as_json(tools, "tools")


def reply_of(row: RowData) -> str:
    """The fields of the answer's message in a row of the shape `robustlm`, as JSON; empty if it calls no tools."""
    given = row.get("reply")
    if not given:
        return ""
    if not isinstance(given, Mapping) or not given.get("tool_calls"):
        raise ValueError(f"wrong reply: found {shown(given)}; expected an object with tool_calls")
    return json.dumps(_more_of(given), ensure_ascii=False)


def _text_of(turn: RowData, role: str) -> str:
    """The text of a message that calls a tool or is its result. Results are kept as they are, blanks included."""
    text = optional(turn, "content")
    return text if role == TOOL else text.strip()


def _more_of(turn: RowData) -> dict[str, object]:
    """The fields of a message besides its role; a content that is no text is among them."""
    more: dict[str, object] = {key: turn[key] for key in _FIELDS if turn.get(key) is not None}
    if "content" in turn:
        more["content"] = turn["content"]
    if "tool_calls" in more:
        calls = elements(turn, "tool_calls", Mapping, _CALLS)  # type: ignore[type-abstract]
        for call in calls:
            try:
                name_and_arguments(call)
            except ValueError as error:
                raise ValueError(f"calls of tools: found {shown(call)}; {error}") from None
    parsed: dict[str, object] = json.loads(_as_json(more, "tool_calls"))
    return parsed


def _decoded(text: str, key: str) -> object:
    try:
        found: object = json.loads(text)
    except ValueError as error:
        expected = "expected a list, or its JSON text"
        raise ValueError(f"{key} is no JSON: found {shown(text)} ({error}); {expected}") from None
    return found


def _as_json(value: object, key: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key} holds a value that JSON has no form for: {error}; expected plain values") from None
