"""YAML that loses a key or blows up is refused by file and line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from robustlm.assets import known_configs
from robustlm.cli import main
from robustlm.utils.yaml_text import check_yaml, read_yaml

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model:\n  a: 1\n  a: 2\n", "run.yaml:3: broken YAML: the key 'a' occurs twice (first in line 2)"),
        ("model: 1\nmodel: 2\n", "run.yaml:2: broken YAML: the key 'model' occurs twice"),
        (BOMB, "aliases (*) repeat its parts to more than 100,000 values"),
        ("a: &a [*a]\n", "an alias (*) repeats a part that contains the alias itself"),
        ("a: &a\n  <<: *a\n", "an alias (*) repeats a part that contains the alias itself"),
    ],
)
def test_such_a_config_is_refused(
    text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit) as end:
        main(["fit", "-c", "run.yaml"])
    assert end.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("text", ["a: 1\n'1': 2\n1: 3", "a: &a {b: 1}\nc: *a\nd: {<<: *a, e: 2}", "", "- 1", "x: y"])
def test_other_yaml_is_not(text: str) -> None:
    check_yaml(text)
    assert read_yaml(text) == yaml.safe_load(text)


def test_packaged_configs_are_not() -> None:
    for name in known_configs():
        text = (Path(__file__).parents[2] / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
        check_yaml(text)
        assert read_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize("read", [check_yaml, read_yaml])
@pytest.mark.parametrize(
    "text", ["a: [1\nb: 2", "a: &a 1\nb: *c", "a: 'x\n", "a: @b", "\ta: 1", "a: !!python/name:os.x"]
)
def test_errors_are_those_of_the_plain_reader(read: Callable[[str], object], text: str) -> None:
    try:
        plain: object = yaml.safe_load(text) if read is read_yaml else yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        with pytest.raises(type(error), match=f"^{re.escape(str(error))}$"):
            read(text)
    else:
        assert read is check_yaml, plain


@pytest.mark.parametrize("read", [check_yaml, read_yaml])
@pytest.mark.parametrize("text", ["a: " + "[" * 30_000, "{a: " * 1_000 + "1" + "}" * 1_000, "- " * 1_000 + "a: 1"])
def test_levels_without_end_are_refused(read: Callable[[str], object], text: str) -> None:
    with pytest.raises((RecursionError, yaml.YAMLError)):
        read(text)
