"""The verdicts of a gate as JUnit XML and as a summary in Markdown, for services that run tests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from robustlm.report.gate import Judged
from robustlm.report.markup import counted
from robustlm.report.tables import aligned

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(run: str, judged: Sequence[Judged]) -> str:
    """One test case for each rule, in the form that CI services read; the run is the test suite."""
    failed = sum(not one.passed for one in judged)
    counts = {"tests": str(len(judged)), "failures": str(failed), "errors": "0", "skipped": "0"}
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": _xml(f"robustlm gate {run}"), **counts})
    for one in judged:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "robustlm.gate", "name": _xml(one.name)})
        if not one.passed:
            found = ElementTree.SubElement(case, "failure", {"message": _xml(f"{one.shown}: {one.reason}")})
            found.text = _xml(one.line)
        else:
            ElementTree.SubElement(case, "system-out").text = _xml(one.line)
    ElementTree.indent(root, " ")
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def to_summary(run: str, judged: Sequence[Judged]) -> str:
    """A table of the rules in Markdown, under a heading with the verdict."""
    failed = sum(not one.passed for one in judged)
    verdict = (
        f"{counted(failed, 'rule')} of {len(judged)} failed" if failed else f"{counted(len(judged), 'rule')} passed"
    )
    rows = [["✅ pass" if one.passed else "❌ fail", one.name, one.shown, one.reason] for one in judged]
    return "\n".join([f"## Robustness of {run}: {verdict}", "", *aligned(["", "rule", "found", ""], rows)]) + "\n"


def _xml(text: str) -> str:
    """A text without characters that XML does not allow."""
    return _NOT_XML.sub("\ufffd", text)
