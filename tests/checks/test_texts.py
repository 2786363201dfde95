"""Messages stay short, whatever they repeat."""

from __future__ import annotations

from robustlm.checks.texts import MOST_CHARACTERS, MOST_LINES, brief, shortened


def test_a_short_text_stays() -> None:
    assert shortened("abc", 10) == "abc"
    assert brief("a: found 1\n  expected 2") == "a: found 1\n  expected 2"


def test_a_long_key_loses_its_middle() -> None:
    message = brief(f"rows.jsonl:1: unknown keys: found {'k' * 1_000_000}; expected text, label")
    assert len(message) < MOST_CHARACTERS
    assert message.startswith("rows.jsonl:1: unknown keys: found kkk")
    assert message.endswith("expected text, label")
    assert "1,000,0" in message


def test_many_long_lines_are_all_shortened() -> None:
    message = brief("\n".join(f"rows.jsonl:{n}: " + "x" * 5_000 for n in range(100)) + "\nwhat to do")
    assert message.count("\n") < MOST_LINES
    assert len(message) < MOST_CHARACTERS + 300
    assert message.endswith("what to do")
    assert "more lines" in message


def test_control_characters_are_written_out() -> None:
    assert brief("found \x1b[31m\u202e") == "found \\x1b[31m\\u202e"
