"""Name and settings of a run, read from its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from robustlm.checks.places import check_file
from robustlm.checks.texts import shortened
from robustlm.conditions.condition import ATTACK
from robustlm.runs import is_part
from robustlm.utils.nested import nested
from robustlm.utils.yaml_text import check_yaml

CONFIG = "config.yaml"

_SETTINGS = {
    "backbone": "model.backbone",
    "checkpoint": "ckpt_path",
    "tuning": "model.tuning",
    "weights as": "model.loading.dtype",
    "test data": "data.test",
    "template": "data.template",
    "scoring": "data.scoring",
    "few-shot examples": "data.shots",
    "examples from": "data.examples",
    "paraphrases": "data.paraphrases",
    "longest answer, tokens": "model.max_new_tokens",
    "instruction bank": "data.bank",
    "instruction style": "data.instructions",
    "instructions asked for": "data.prompts",
    "samples asked for": "data.samples",
    "share of cells asked for": "data.budget",
    "answers to each question": "data.draws",
    "temperature": "model.generation.temperature",
    "seed": "data.seed",
}

_REUSE = "data.attack.reuse"

_ATTACK = {
    "attacks of another run": _REUSE,
    "attacks searched on, samples": "data.attack.samples",
    "search for attacks": "data.attack.search",
    "attacks searched by": "data.attack.objective",
    "attacks of another run tried first": "data.attack.transfer",
    "most texts tried": "data.attack.budget",
    "most replacements of a word": "data.attack.candidates",
}
"""Settings shown if a condition is an attack: only the first if attacks are reused, otherwise only the others."""


def run_name(table: Path) -> str:
    """Name of the table's folder; with its parent's name if the folder is a version or a part of a named run."""
    folder = table.resolve().parent
    return (
        f"{folder.parent.name}/{folder.name}" if folder.name.startswith("version_") or is_part(folder) else folder.name
    )


def run_settings(table: Path) -> dict[str, str]:
    """Settings of a run by displayed name, from `config.yaml` beside its table; empty if there is no such file.

    A report needs only the table, so an unreadable config raises nothing: the result holds the error message instead.
    """
    try:
        config = _config(table)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        return {CONFIG: f"could not be read: {shortened(str(error), 200)}"}
    if config is None:
        return {}
    paths = _SETTINGS | (_attack_settings(config) if _attacked(config) else {})
    found = {name: nested(config, path) for name, path in paths.items()}
    if not found["few-shot examples"]:
        found["few-shot examples"] = found["examples from"] = None
    return {name: _plain(value) for name, value in found.items() if value is not None}


def generation_settings(table: Path) -> dict[str, float | int]:
    """How answers of a run were generated, as far as its config says: the longest answer, and how tokens were drawn.

    Names are those of Every Eval Ever: `max_tokens`, `temperature`, `top_p`, `top_k`.
    """
    try:
        config = _config(table)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    found = {"max_tokens": nested(config, "model.max_new_tokens")}
    for name in ("temperature", "top_p", "top_k"):
        local = nested(config, f"model.generation.{name}")
        found[name] = nested(config, f"model.hosting.{name}") if local is None else local
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def _config(table: Path) -> object:
    """The config beside a table; `None` without one."""
    file = table.with_name(CONFIG)
    if not file.is_file():
        return None
    check_file(file, "the settings of a run")
    text = file.read_text(encoding="utf-8")
    check_yaml(text)
    return yaml.safe_load(text)


def _attacked(config: Any) -> bool:
    conditions = nested(config, "data.conditions")
    return isinstance(conditions, list) and any(ATTACK in str(condition) for condition in conditions)


def _attack_settings(config: Any) -> dict[str, str]:
    reused = nested(config, _REUSE) is not None
    return {name: path for name, path in _ATTACK.items() if (path == _REUSE) == reused}


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, dict) and "path" in value:  # a data source
        value = value["path"] if value.get("bank") is None else f"{value['path']} ({value['bank']})"
    if isinstance(value, dict) and "class_path" in value:
        name = str(value["class_path"]).rpartition(".")[2]
        given = value.get("init_args")
        return f"{name}({', '.join(f'{k}={_plain(v)}' for k, v in given.items())})" if isinstance(given, dict) else name
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
