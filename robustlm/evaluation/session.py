"""State of an evaluation: the folder of its files, the rows that are answered, and those that are not asked again."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from robustlm.evaluation.hidden_state_table import HIDDEN_STATES, known_hidden_states
from robustlm.evaluation.record import Key, Record
from robustlm.evaluation.table import clear_parts, read_parts, read_table, write_part
from robustlm.utils.files import write_text

PREDICTIONS = "predictions.parquet"
"""The usual name of the prediction table in the folder of a run."""

ATTACKS = "attacks.jsonl"
"""Name of the file with attacked instructions, beside the prediction table."""

Identity = Mapping[str, str | int | None]
"""Plain data, by name, that must be equal for two evaluations to give the same table."""

_SAME = {
    "weights": "the same model, adapter and checkpoint",
    "rows": "the same rows, conditions, template, seed and tokenizer",
    "model": "the same hosted model, asked with the same model.hosting settings",
}


@dataclass(frozen=True, slots=True)
class KeptStates:
    """Which hidden states an evaluation writes."""

    layer: int
    """-1: the input of the head; 0: the embeddings."""
    position: str
    """Token position that gives the state of a row: one of `robustlm.models.base.Pooling`."""


class EvaluationSession:
    """One `test` or `predict`: its folder, the rows that are done, and the rows that are not asked again.

    The datamodule makes it in `setup`, which Lightning calls before the `setup` of callbacks. In their `setup`,
    callbacks set the folder (`store`) and whether hidden states are written (`kept_states`). After that, loaders, the
    search for attacks and callbacks read the session and do not depend on each other.

    Without a folder nothing is written and no row is done.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        """Folder of the evaluation's files; null: no files are written."""
        self.resumed = False
        """Whether the evaluation continues an interrupted one in the folder."""
        self.kept_states: KeptStates | None = None
        """Which hidden states are written; null: none. Set it in `setup`, before loaders are made."""
        self._name = PREDICTIONS
        self.answered: list[Record] = []
        """Rows of the prediction table that the interrupted evaluation has written."""
        self._whole = False
        """Whether the answers were read from a whole table, in which some are missing."""
        self._done: set[Key] | None = None
        self._skipped: dict[str, set[Key]] = {}

    # --- files -------------------------------------------------------------------------------------------------

    def store(
        self, folder: Path, name: str = PREDICTIONS, *, resumed: bool = False, retry_failed: bool = False
    ) -> None:
        """Set the folder of the files; with `resumed`, read the answers of an interrupted evaluation from it.

        Args:
            folder: The folder.
            name: Name of the prediction table in it.
            resumed: Whether to continue an evaluation that did not end.
            retry_failed: Whether rows without an answer (`Record.error`) are asked again, also if the evaluation ended.

        Raises:
            ValueError: The folder holds no evaluation that can be resumed.
        """
        self.folder, self._name, self.resumed = folder, name, resumed
        if not resumed:
            return
        self.answered = read_parts(self.table)
        if self.table.exists():
            whole = f"predictions.resume: {self.table} is complete"
            if not retry_failed:
                raise ValueError(f"{whole}; there is nothing left to evaluate{self._left()}")
            # parts beside a whole table are those of an earlier attempt to get the missing answers
            self._whole = not self.answered
            self.answered = self.answered or read_table(self.table, answered=False)
            if all(row.error is None for row in self.answered):
                raise ValueError(f"{whole}, and each of its {len(self.answered)} rows has an answer; nothing to retry")
        if retry_failed:
            self.answered = [row for row in self.answered if row.error is None]
        # attacks are searched for before the first answer, when the identity is not written yet
        searching = (folder / ATTACKS).is_file() and not self.answered
        if not searching and not self._identity_file.is_file():
            raise ValueError(
                f"predictions.resume: {folder} holds no {self._identity_file.name}; expected the folder of "
                "an interrupted `robustlm test`"
            )

    @property
    def table(self) -> Path:
        """Path of the prediction table. Raises `RuntimeError` without a folder."""
        return self._stored() / self._name

    @property
    def attacks(self) -> Path | None:
        """Path of the attack file; null without a folder."""
        return None if self.folder is None else self.folder / ATTACKS

    @property
    def _identity_file(self) -> Path:
        return self.table.with_name(f"{self._name}.run.json")

    def _stored(self) -> Path:
        if self.folder is None:
            raise RuntimeError("the evaluation keeps no files; call `store` first")
        return self.folder

    def _left(self) -> str:
        """Clause about rows of a whole table that have no answer; empty if there are none."""
        rows = read_table(self.table, answered=False)
        failed = sum(row.error is not None for row in rows)
        if not failed:
            return ""
        return f" but {failed} of {len(rows)} rows, which have no answer: add --predictions.retry_failed true"

    # --- rows --------------------------------------------------------------------------------------------------

    @property
    def done(self) -> Collection[Key]:
        """Rows that the interrupted evaluation has answered; if states are written, only rows with a hidden state.

        A process may have been killed between writing an answer and its hidden state; such a row is not done.
        """
        if self._done is None:
            self._done = {row.key for row in self.answered}
            if self.kept_states is not None and self._done:
                known = known_hidden_states(self._stored() / HIDDEN_STATES)
                self._done = {row.key for row in self.answered if row.cell in known}
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
        """Number of times that the evaluation was resumed, including this time; 0 for a new one. Call on every process.

        Raises:
            ValueError: The interrupted evaluation had another identity.
        """
        if not self.resumed or not self._identity_file.is_file():
            return 0
        known = json.loads(self._identity_file.read_text(encoding="utf-8"))
        for name, value in identity.items():
            if known.get(name) != value:
                expected = _SAME.get(name, f"{name} {known.get(name)}")
                what = name if name in _SAME else f"{name} {value}"
                raise ValueError(
                    f"predictions.resume: found other {what} than at the start of {self.folder}; expected {expected}"
                )
        return int(known["attempt"]) + 1

    def begin(self, identity: Identity, attempt: int) -> None:
        """Write the identity file; a new evaluation first removes old part files. Call on one process only."""
        if not self.resumed:
            clear_parts(self.table)
        self._stored().mkdir(parents=True, exist_ok=True)
        if self._whole:
            # `merge` makes the new table from parts alone
            write_part(self.table, self.answered)
        write_text(self._identity_file, json.dumps({**identity, "attempt": attempt}, indent=1))

    def end(self, *, failed: bool = False) -> None:
        """Remove files that only an unfinished evaluation needs; call after writing the table, on one process only.

        Args:
            failed: Whether rows have no answer. The identity is then kept, so that they can be asked again.
        """
        if not failed:
            self._identity_file.unlink(missing_ok=True)
        if self.kept_states is None:
            # states of an earlier run in this folder do not belong to the new table
            (self._stored() / HIDDEN_STATES).unlink(missing_ok=True)
