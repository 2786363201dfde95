"""Chat templates that fail or never end, and rows that name files."""

from __future__ import annotations

import contextlib
import copy
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from robustlm.cli import main
from robustlm.prompts import chat
from robustlm.prompts.chat import ChatTemplate
from robustlm.rows.base import BadRowsError
from robustlm.rows.writers import write_rows
from robustlm.sample import Context, Sample
from robustlm.sources.loading import load
from robustlm.sources.source import Source
from robustlm.utils.limits import TimeLimitError, limited

ENDLESS = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
PLAIN = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
SAMPLE = Sample("row-7", instruction="Say it.", target="it", context=Context())


def speaking(tokenizer: Any, template: str) -> Any:
    """The tokenizer with a chat template."""
    made = copy.deepcopy(tokenizer)
    made.chat_template = template
    return made


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for %}", "line 1 fails on the message"),
        ("{{ missing.name.other }}", "UndefinedError"),
        ("{{ raise_exception('not like this') }}", "not like this"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[9]['content'] }}", "fails on the message"),
        ("{% for a in range(10 ** 12) %}{% endfor %}", "OverflowError"),
        ("{{ ().__class__.__bases__ }}", "fails on the message"),
        ("{% include '../secret' %}", "fails on the message"),
    ],
)
def test_a_template_that_fails_is_named(template: str, says: str, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"data.template: the tokenizer's chat template") as error:
        ChatTemplate(speaking(tokenizer, template))
    assert says in str(error.value)


def test_a_template_that_fails_on_one_row_names_the_row(tokenizer: Any) -> None:
    found = ChatTemplate(speaking(tokenizer, PLAIN + "{% if 'it.' in messages[0]['content'] %}{{ 1 / 0 }}{% endif %}"))
    with pytest.raises(ValueError, match=r"'Say it\.'.*ZeroDivisionError"):
        found.render(SAMPLE, SAMPLE.instruction)
    found = ChatTemplate(
        speaking(tokenizer, PLAIN + "{% if 'it.' in messages[0]['content'] %}{{ raise_exception('no') }}{% endif %}")
    )
    with pytest.raises(ValueError, match=r"row-7: data.template: .*no"):
        found.render(SAMPLE, SAMPLE.instruction)


def test_a_template_that_never_ends_is_stopped(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "LONGEST_RENDERING", 0.2)
    caught: list[str] = []

    def make() -> None:
        try:
            ChatTemplate(speaking(tokenizer, ENDLESS))
        except ValueError as error:
            caught.append(str(error))

    make()
    worker = threading.Thread(target=make, daemon=True)
    worker.start()
    worker.join(20)
    assert len(caught) == 2
    assert all("did not end within 0.2 s" in text for text in caught)


def test_what_ends_in_time_is_left_alone() -> None:
    assert limited(5, lambda: 3) == 3
    for _ in range(200):  # ends at about the limit: stopped or not, nothing is raised later
        with contextlib.suppress(TimeLimitError):
            limited(0.0005, lambda: time.sleep(0.0005))
        sum(range(1000))


@pytest.mark.parametrize("name", ["{}", "{}#x", "../banks.json", "nowhere.json#x", "../secret"])
def test_a_row_names_no_file(name: str, tmp_path: Path) -> None:
    file = tmp_path / "banks.json"
    file.write_text(json.dumps({"task": "x", "concise": {"seen": ["Do it."], "unseen": []}}), encoding="utf-8")
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"instruction": "", "target": "y", "bank": name.format(file)}])
    with pytest.raises(BadRowsError, match="a row names a packaged bank"):
        load(Source(str(path)), "train")
    (sample,) = load(Source(str(path), bank=str(file)), "train")  # a config may
    assert sample.bank == str(file)


@pytest.mark.parametrize(
    "url", ["http://h/v1?api_key=SECRET", "http://u:SECRET@h/v1", "http://h/v1#SECRET", "//[SECRET"]
)
@pytest.mark.parametrize("by", ["flag", "environment"])
def test_a_key_in_a_url_is_never_shown(
    url: str, by: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    write_rows(Path("rows.jsonl"), [{"instruction": "Say it to me.", "target": "y"}])
    words = ["--distortion.embedder", "OpenAIEmbedder"]
    if by == "flag":
        words.append(f"--distortion.embedder.base_url={url}")
    else:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(SystemExit) as end:
        main(["noise", "rows.jsonl", "out.jsonl", "--distortion", "LME", *words])
    assert end.value.code == 2
    shown = capsys.readouterr()
    assert "SECRET" not in shown.out + shown.err
    assert not any("SECRET" in file.read_text(errors="replace") for file in tmp_path.rglob("*") if file.is_file())
    with pytest.raises(SystemExit):
        main(["paraphrase", "rows.jsonl", "o.jsonl", "--model", "m", *([f"--base_url={url}"] if by == "flag" else [])])
    shown = capsys.readouterr()
    assert "SECRET" not in shown.out + shown.err
