"""The small commands beside training and testing; each is a typed function, whose arguments become options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from robustlm.cli.chains import Chain
from robustlm.cli.data_commands import noise, pairs, paraphrase
from robustlm.cli.model_commands import init, merge
from robustlm.cli.quickstart import quickstart
from robustlm.cli.report_commands import compare, export_harness, import_harness, report, states

COMMANDS: dict[str, Callable[..., Iterable[Sequence[Chain]] | None]] = {
    "noise": noise,
    "pairs": pairs,
    "paraphrase": paraphrase,
    "init": init,
    "compare": compare,
    "report": report,
    "states": states,
    "export-harness": export_harness,
    "import-harness": import_harness,
    "merge": merge,
    "quickstart": quickstart,
}
"""Commands by name; `robustlm NAME --help` shows the arguments. One made of other commands yields chains of them."""
