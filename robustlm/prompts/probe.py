"""Find out what a chat template writes of a chat with tools, by made-up tools and calls that are looked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from robustlm.prompts.dialogue import TOOL, Frame

_OFFERED = "probe_offered"
_PARAMETERS = {
    "type": "object",
    "properties": {"probed": {"type": "string", "description": "A text."}},
    "required": ["probed"],
}
_TOOL = {"name": _OFFERED, "description": "Probes.", "parameters": _PARAMETERS}


@dataclass(frozen=True, slots=True)
class Probe:
    """A chat with the roles and the number of calls of another one, but with texts of its own."""

    frame: Frame
    contents: Sequence[str]
    calls: tuple[str, ...]
    """Names of the tools that it calls."""

    def missing(self, text: str) -> str:
        """What the text of a template lacks, as the end of a sentence about it; empty if it lacks nothing."""
        if self.frame.tools and _OFFERED not in text:
            return "does not write the tools that a chat offers"
        if any(name not in text for name in self.calls):
            return "does not write calls of tools"
        results = [said for said, role in zip(self.contents, self.frame.roles, strict=True) if role == TOOL]
        return "does not write the results of tools" if any(said not in text for said in results) else ""


def probe_of(frame: Frame) -> Probe:
    """The probe for a chat; equal for chats with the same roles and numbers of calls."""
    fields, names = [], []
    calls: list[dict[str, object]] = []
    answered = 0
    for at in range(len(frame.roles)):
        more: dict[str, object] = {}
        if frame.calls(at):
            count = len(json.loads(frame.fields[at])["tool_calls"])
            own = [f"probe_{at}_{number}" for number in range(count)]
            # ids of nine letters and digits, which some templates insist on
            calls = [
                {
                    "id": f"{at % 10_000:04}{number % 100_000:05}",
                    "type": "function",
                    "function": {"name": name, "arguments": {"probed": "yes"}},
                }
                for number, name in enumerate(own)
            ]
            names += own
            answered = 0
            more = {"content": "", "tool_calls": calls}
        elif frame.roles[at] == TOOL:
            call = calls[min(answered, len(calls) - 1)]
            answered += 1
            more = {"tool_call_id": call["id"], "name": _name(call)}
        fields.append(json.dumps(more) if more else "")
    contents = ["" if frame.calls(at) else f"{{{{probe {at}}}}}" for at in range(len(frame.roles))]
    tools = json.dumps([{"type": "function", "function": _TOOL}]) if frame.tools else ""
    return Probe(Frame(frame.roles, tuple(fields), tools), contents, tuple(names))


def _name(call: dict[str, object]) -> object:
    inner = call["function"]
    return inner["name"] if isinstance(inner, dict) else ""
