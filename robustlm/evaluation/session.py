"""An evaluation: where its files are, which rows are answered already, and which of these are not asked again."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from robustlm.evaluation.hidden_state_table import HIDDEN_STATES, known_hidden_states
from robustlm.evaluation.record import Key, Record
from robustlm.evaluation.table import clear_parts, read_parts
from robustlm.utils.files import write_text

PREDICTIONS = "predictions.parquet"
"""The usual name of the prediction table in the folder of a run."""

ATTACKS = "attacks.jsonl"
"""Name of the file that holds what attacks did to instructions, beside the prediction table."""

Identity = Mapping[str, str | int | None]
"""What has to be the same for two evaluations to give the same table, by name: plain data."""

_SAME = {
    "weights": "the same model, adapter and checkpoint",
    "rows": "the same rows, conditions, template, seed and tokenizer",
}


@dataclass(frozen=True, slots=True)
class KeptStates:
    """Which hidden states an evaluation keeps."""

    layer: int
    """-1: what the head reads; 0: the embeddings."""
    position: str
    """What stands for a row: one of `robustlm.models.base.Pooling`."""


class EvaluationSession:
    """One `test` or `predict`: its folder, what is done in it, and what is not asked again.

    The datamodule makes it in `setup`, which Lightning calls before the `setup` of callbacks. In theirs, callbacks say
    where files go (`store`) and whether hidden states are kept (`kept_states`). From then on loaders, the search for
    attacks and callbacks ask the session, and not each other.

    Without a folder nothing is written and nothing is done already.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        """Where the files of the evaluation go; null: no files are kept."""
        self.resumed = False
        """Whether the evaluation goes on with what an interrupted one has left in the folder."""
        self.kept_states: KeptStates | None = None
        """Which hidden states are kept; null: none. Set it in `setup`, before loaders are made."""
        self._name = PREDICTIONS
        self.answered: list[Record] = []
        """Rows of the prediction table that the interrupted evaluation has written."""
        self._done: set[Key] | None = None
        self._skipped: dict[str, set[Key]] = {}

    # --- files -------------------------------------------------------------------------------------------------

    def store(self, folder: Path, name: str = PREDICTIONS, *, resumed: bool = False) -> None:
        """Keep files in a folder; with `resumed`, read what an interrupted evaluation has answered there.

        Args:
            folder: The folder.
            name: Name of the prediction table in it.
            resumed: Whether to go on with an evaluation that did not end.

        Raises:
            ValueError: The folder holds no evaluation that can be resumed.
        """
        self.folder, self._name, self.resumed = folder, name, resumed
        if not resumed:
            return
        if self.table.exists():
            raise ValueError(f"predictions.resume: {self.table} is whole; there is nothing left to evaluate")
        self.answered = read_parts(self.table)
        # attacks are searched for before the first answer, so then there is no identity yet
        searching = (folder / ATTACKS).is_file() and not self.answered
        if not searching and not self._identity_file.is_file():
            raise ValueError(
                f"predictions.resume: {folder} holds no {self._identity_file.name}; expected the folder of a "
                "`robustlm test` that did not end"
            )

    @property
    def table(self) -> Path:
        """The prediction table. Raises `RuntimeError` without a folder."""
        return self._stored() / self._name

    @property
    def attacks(self) -> Path | None:
        """The file of attacks; null without a folder."""
        return None if self.folder is None else self.folder / ATTACKS

    @property
    def _identity_file(self) -> Path:
        return self.table.with_name(f"{self._name}.run.json")

    def _stored(self) -> Path:
        if self.folder is None:
            raise RuntimeError("the evaluation keeps no files; call `store` first")
        return self.folder

    # --- rows --------------------------------------------------------------------------------------------------

    @property
    def done(self) -> Collection[Key]:
        """Rows that the interrupted evaluation has answered, and whose hidden states it has where these are kept.

        A process may have been killed between an answer and its hidden state; such a row is not done.
        """
        if self._done is None:
            self._done = {row.key for row in self.answered}
            if self.kept_states is not None and self._done:
                self._done &= known_hidden_states(self._stored() / HIDDEN_STATES)
        return self._done

    def skip(self, condition: str, keys: Collection[Key]) -> None:
        """Note which rows of a condition are not run again, since their whole batch is done."""
        self._skipped[condition] = set(keys)

    @property
    def taken_over(self) -> list[Record]:
        """Those of `answered` that are not run again."""
        skipped = set().union(*self._skipped.values())
        return [row for row in self.answered if row.key in skipped]

    # --- begin and end -----------------------------------------------------------------------------------------

    def attempt(self, identity: Identity) -> int:
        """How often the evaluation was resumed, this time included; 0 for a new one. Asked on every process.

        Raises:
            ValueError: The interrupted evaluation was another one.
        """
        if not self.resumed or not self._identity_file.is_file():
            return 0
        known = json.loads(self._identity_file.read_text(encoding="utf-8"))
        for name, value in identity.items():
            if known.get(name) != value:
                expected = _SAME.get(name, f"{name} {known.get(name)}, as it was begun")
                what = name if name in _SAME else f"{name} {value}"
                raise ValueError(
                    f"predictions.resume: found other {what} than {self.folder} was begun with; expected {expected}"
                )
        return int(known["attempt"]) + 1

    def begin(self, identity: Identity, attempt: int) -> None:
        """Write down what is evaluated; a new evaluation removes the parts of an earlier one. On one process only."""
        if not self.resumed:
            clear_parts(self.table)
        self._stored().mkdir(parents=True, exist_ok=True)
        write_text(self._identity_file, json.dumps({**identity, "attempt": attempt}, indent=1))

    def end(self) -> None:
        """Remove what only an unfinished evaluation needs, once the table is made. On one process only."""
        self._identity_file.unlink(missing_ok=True)
        if self.kept_states is None:
            # of an earlier run in this folder, whose answers were others
            (self._stored() / HIDDEN_STATES).unlink(missing_ok=True)
