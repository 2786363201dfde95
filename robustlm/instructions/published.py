"""Instruction lists in the files that were published: PromptSource, PromptBench, CoIN, InstructionEval, FLAN.

Files of code (`.py`) are never run: only texts and lists that stand in them are read.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

CLEAN = "clean"
"""Name that published files of perturbed instructions give to the unperturbed ones."""
_NAME = re.compile(r"(?P<file>.+\.(?:json|ya?ml|py|md))(?:#(?P<entry>.+))?")
_PLAIN = re.compile(r"_?\d+$")
_LATER_SHOTS = ("_fs", "_few_shot")
_TEMPLATES = ("input_template", "input_text", "definition_text")
"""Variables to which methods of InstructionEval assign a template."""
_RENAMED = {"_UNOBSERVED_ALPACA_INSTRUCTIONS": "alpaca_instructions"}


def divided(name_or_path: str) -> tuple[str, str] | None:
    """File and entry of a bank's name (`config.py#cola`); the entry may be empty. None: it names no file."""
    found = _NAME.fullmatch(name_or_path)
    return (found["file"], found["entry"] or "") if found else None


def read_file(path: str) -> Any:
    """The instruction lists of a file, as plain data.

    Raises:
        ValueError: The file cannot be read, or has no form that is known; the message names the file.
    """
    reader = _READERS[Path(path).suffix]
    try:
        return reader(Path(path).read_bytes().decode())
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read ({error.strerror}); expected a file with instruction banks by name"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: found bytes that are not UTF-8 ({error.reason}); expected a text file") from None
    except (ValueError, SyntaxError, RecursionError) as error:
        raise ValueError(f"{path}: {error}; expected a file with instruction banks by name") from None


def entry_of(data: Any, name: str, path: str) -> Any:
    """An entry of a file, in one of the forms of a bank: a list of templates, or an object with named lists.

    Files hold entries by name; or groups of entries (PromptBench: task- and role-oriented; CoIN: kinds of
    perturbation), each with entries by name. In the second case, every group becomes a list of the bank. The phrasings
    are those of the group `clean` or, without such a group, those of all groups. An entry that is an object of lists
    becomes these lists. An entry that is an object of texts is a list of these; a name such as `trivia_qa` also stands
    for the texts `trivia_qa_1`, `trivia_qa_2`, ….

    Raises:
        ValueError: The file has no entry with this name.
    """
    if _is_promptsource(data):
        return list(data["templates"].values())
    if not isinstance(data, dict):
        raise ValueError(f"{path}: found {type(data).__name__}; expected an object of instruction banks by name")
    if not name:
        return _shaped(data)
    found = _within(data, name)
    if found is not None:
        return _shaped(found)
    for groups in (data, *(group for group in data.values() if isinstance(group, dict))):
        inner = {key: group for key, group in groups.items() if isinstance(group, dict)}
        own = {key: group[name] for key, group in inner.items() if isinstance(group.get(name), list)}
        if own and (CLEAN in own or len(own) == len(inner)):
            lists = {_listed_name(key): texts for key, texts in own.items() if key != CLEAN}
            return {"seen": own[CLEAN], "lists": lists} if CLEAN in own else {**_all_of(own), "lists": lists}
    known = ", ".join(_names(data)) or "none, as it is empty"
    raise ValueError(f"{path}: found no bank {name!r}; expected one of {known}")


def _is_promptsource(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("templates"), dict) and "dataset" in data


def _within(data: Mapping[str, Any], name: str) -> Any:
    """The value under a key, or under keys with slashes between them."""
    if name in data:
        return data[name]
    for at in (match.start() for match in re.finditer("/", name)):
        inner = data.get(name[:at])
        if isinstance(inner, dict) and (found := _within(inner, name[at + 1 :])) is not None:
            return found
    numbered = [text for key, text in data.items() if _PLAIN.sub("", key) == name]
    return numbered if numbered and all(isinstance(text, str) for text in numbered) else None


def _shaped(entry: Any) -> Any:
    if not isinstance(entry, dict) or {"seen", "unseen", "lists"} & set(entry):
        return entry
    if entry and all(isinstance(text, str) for text in entry.values()):
        return list(entry.values())
    lists = {key: texts for key, texts in entry.items() if isinstance(texts, list) and texts}
    if lists and len(lists) == sum(not (isinstance(texts, list) and not texts) for texts in entry.values()):
        found: dict[str, Any] = {"lists": {_listed_name(key): texts for key, texts in lists.items() if key != CLEAN}}
        return {"seen": lists[CLEAN], **found} if CLEAN in lists else found
    return entry


def _all_of(groups: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """The templates of all groups, the last quarter of each group held back as of a plain list."""
    found: dict[str, list[Any]] = {"seen": [], "unseen": []}
    for texts in groups.values():
        held = -(-len(texts) // 4) if len(texts) >= 4 else 0
        found["seen"] += texts[: len(texts) - held]
        found["unseen"] += texts[len(texts) - held :]
    return found


def _listed_name(key: str) -> str:
    """A name that a condition `list:NAME` can have."""
    return re.sub(r"[^\w-]+", "_", key)


def _names(data: Mapping[str, Any]) -> list[str]:
    """Names of entries, for messages: those of the file, and those in its groups."""
    inner = [name for group in data.values() if isinstance(group, dict) for name in group]
    return [*data, *dict.fromkeys(name for name in inner if name not in data)][:40]


# ------------------------------------------------------------------------------------------ kinds of files


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"found no UTF-8 JSON ({error})") from None


def _read_yaml(text: str) -> Any:
    import yaml

    from robustlm.utils.yaml_text import check_yaml

    class Loader(yaml.SafeLoader):
        """Plain data; the tags of PromptSource are objects, which become plain objects too."""

    for tag in ("!Template", "!TemplateMetadata"):
        Loader.add_constructor(tag, lambda loader, node: loader.construct_mapping(node, deep=True))
    try:
        check_yaml(text)
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"found no plain YAML ({' '.join(str(error).split())})") from None


def _read_python(text: str) -> dict[str, Any]:
    """Literals that are assigned in a module, and the templates of the methods of its classes."""
    body = ast.parse(text).body
    found: dict[str, Any] = {}
    for node in body:
        if isinstance(node, ast.ClassDef):
            found |= _of_class(node)
    if found:
        return found
    found = dict(pair for node in body if (pair := _assigned(node)) is not None)
    objects = {name: value for name, value in found.items() if isinstance(value, dict | list)}
    if not objects:
        raise ValueError("found neither objects nor lists of texts in this code")
    if len(objects) > 1:
        return objects
    (only,) = objects.values()
    return only if isinstance(only, dict) else objects


def _assigned(node: ast.AST) -> tuple[str, Any] | None:
    """Name and value of an assignment of a literal."""
    if not isinstance(node, ast.Assign) or len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
        return None
    try:
        return node.targets[0].id, ast.literal_eval(node.value)
    except ValueError:
        return None


def _of_class(node: ast.ClassDef) -> dict[str, Any]:
    """Lists of a class, and templates of its methods by the methods' names, without those for several shots."""
    found: dict[str, Any] = {}
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and not part.name.endswith(_LATER_SHOTS):
            texts = [text for inner in ast.walk(part) if (text := _template_in(inner)) is not None]
            if len(texts) == 1:
                found[part.name] = texts[0]
        elif (pair := _assigned(part)) is not None and isinstance(pair[1], list):
            found[_RENAMED.get(pair[0], pair[0])] = pair[1]
    lists = {name: value for name, value in found.items() if isinstance(value, list)}
    texts = [text for name, text in found.items() if isinstance(text, str)]
    return {**({"templates": texts} if texts else {}), **lists} if lists else found


def _template_in(node: ast.AST) -> str | None:
    """The text that a method assigns to its template, also one with `.format(name=value)` behind it."""
    if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
        return None
    value, names = node.value, {}
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "format":
        names = {one.arg: one.value.id for one in value.keywords if one.arg and isinstance(one.value, ast.Name)}
        value = value.func.value
    fits = isinstance(value, ast.Constant) and isinstance(value.value, str)
    if not fits or node.targets[0].id not in _TEMPLATES:
        return None
    assert isinstance(value, ast.Constant)
    assert isinstance(value.value, str)
    text: str = value.value
    return re.sub(r"\{(\w+)\}", lambda match: f"{{{names.get(match[1], match[1])}}}", text)


_TITLE = re.compile(r"(#{1,2}) (.+)")
_CLEAN_LINE = re.compile(r"Acc: [\d.]+%, prompt: (.*)")
_ATTACKED = re.compile(r"Attacked prompt: (b(?:'.*'|\".*\"))")
_TRANSLATED = re.compile(r"Language: (\w+), acc: [\d.]+%, prompt: (.*)")


def _read_markdown(text: str) -> dict[str, Any]:
    """PromptBench's attacked prompts: a title for each dataset, and below it one for each attack."""
    found: dict[str, dict[str, list[str]]] = {}
    dataset = attack = ""
    for line in text.splitlines():
        if title := _TITLE.fullmatch(line.strip()):
            if title[1] == "#":
                dataset, attack = title[2].strip(), ""
            else:
                attack = title[2].strip()
            continue
        for key, prompt in _prompts_of(line, attack):
            if prompt.strip():
                found.setdefault(dataset, {}).setdefault(key, []).append(prompt.strip())
    if not found:
        raise ValueError('found no line `Acc: …%, prompt: …` or `Attacked prompt: b"…"`')
    return found


def _prompts_of(line: str, attack: str) -> Iterator[tuple[str, str]]:
    if match := _CLEAN_LINE.match(line):
        yield CLEAN, match[1]
    elif match := _TRANSLATED.match(line):
        yield f"{attack or 'translation'}-{match[1]}", match[2]
    elif attack and (match := _ATTACKED.match(line)):
        yield attack, ast.literal_eval(match[1]).decode(errors="replace")


_READERS: dict[str, Callable[[str], Any]] = {
    ".json": _read_json,
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
    ".py": _read_python,
    ".md": _read_markdown,
}
