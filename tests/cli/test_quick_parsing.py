"""The functions that make parsing quick in tests give what jsonargparse's own give."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from jsonargparse import ArgumentParser, Namespace, _core, _namespace

from robustlm.cli import main
from tests import quick_parsing


def shared(found: Any, source: Any) -> bool:
    """Whether a result holds a container of its source, which a change of the result would change too."""
    if isinstance(source, ArgumentParser):
        return any(shared(found, action.default) or shared_parts(found, action.default) for action in source._actions)
    return isinstance(found, Namespace | dict | list) and found is source


def shared_parts(found: Any, source: Any) -> bool:
    values = vars(found).values() if isinstance(found, Namespace) else found.values() if isinstance(found, dict) else ()
    return any(shared(value, source) or shared_parts(value, source) for value in values)


@pytest.mark.parametrize(
    "args",
    [
        ["fit", "-c", "robust", "--model.adversary", "FreeLB", "--data.train", "x.jsonl", "--print_config"],
        ["fit", "-c", "robust", "--model.adversary", "FreeLB", "--data.train", "x.jsonl", "--modle.x", "1"],
        ["noise", "in.jsonl", "out.jsonl", "--kinds", "what"],
    ],
    ids=["printed", "unknown flag", "function"],
)
def test_every_call_gives_the_same(
    args: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: Counter[str] = Counter()

    def compared(name: str, quick: Any) -> Any:
        plain = quick_parsing.PLAIN[name]

        def both(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            wanted = plain(*args, **kwargs)
            found = quick(*args, **kwargs)
            assert found == wanted
            if name in ("recreate_branches", "get_defaults"):
                assert type(found) is type(wanted)
                assert found is wanted or not shared(found, args[0])
            elif isinstance(found, tuple):
                assert all(a is b or isinstance(a, str) for a, b in zip(found, wanted, strict=True))
            return found

        return both

    quick = {name: getattr(_core, name) for name in ("find_action_and_subcommand", "is_branch_key")}
    quick["recreate_branches"] = _namespace.recreate_branches
    assert all(quick[name] is not quick_parsing.PLAIN[name] for name in quick)
    methods: dict[str, Any] = {"_parse_key": Namespace._parse_key, "get_defaults": ArgumentParser.get_defaults}
    quick_parsing.put({name: compared(name, function) for name, function in quick.items()})
    for kind, name in ((Namespace, "_parse_key"), (ArgumentParser, "get_defaults")):
        monkeypatch.setattr(kind, name, compared(name, methods[name]))
    try:
        with pytest.raises(SystemExit):
            main(args)
    finally:
        quick_parsing.put(quick)
    assert calls.keys() == quick_parsing.PLAIN.keys()
    assert min(calls.values()) > 0


def test_odd_namespaces_are_copied_as_they_were() -> None:
    odd = Namespace(a=1, items=[{"b": Namespace(c=2)}], __path__="x")
    odd.__dict__["d.e"] = 3
    for skip in (None, {"__path__", "c"}):
        assert quick_parsing.recreate_branches(odd, skip) == quick_parsing.PLAIN["recreate_branches"](odd, skip)
