"""Settings stored in a checkpoint or an adapter: a layer between config files and flags.

A checkpoint holds the model's settings and the prompt settings, which decide how prompts are written. An adapter of
this package holds the prompt settings (`robustlm.json`). Stored settings override config files, flags override both,
and each difference is printed.
"""

from __future__ import annotations

import inspect
import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_only

import robustlm
from robustlm.adapters.settings import FILE, checked_prompt, read_prompt
from robustlm.callbacks.checkpoints import newest_checkpoint
from robustlm.checkpoints.content import EXPECTED, check_content
from robustlm.checkpoints.trust import allow_classes, allow_model, allow_prompt
from robustlm.checkpoints.words import Words
from robustlm.checks.places import check_name, what_is
from robustlm.cli.arguments import configs_of, configured, flag_value, groups_of, key_of, setting
from robustlm.cli.parsers import named
from robustlm.datamodules import InstructionDataModule
from robustlm.modules import InstructionTuning
from robustlm.runs import FIT, checkpoint_in, evaluation_folder, evaluation_in, fit_folder
from robustlm.utils.nested import nested
from robustlm.utils.yaml_text import read_yaml

NO_CHECKPOINT = (None, "best", "last", "hpc", "registry", "null")
"""Values of `ckpt_path` that do not name a file."""


@dataclass(frozen=True)
class Stored:
    """The settings in a checkpoint or an adapter."""

    path: str
    kind: Literal["checkpoint", "adapter"]
    model: dict[str, Any]
    """`{"class_path": …, "init_args": …}`; empty if the model is not stored."""
    prompt: dict[str, object] | None
    """Data settings that decide how prompts are written, by name; null: unknown."""

    def allow(self, words: Words) -> None:
        """Raise `ValueError` for settings that need the user's consent and do not have it."""
        if self.model:
            allow_classes(self.path, self.model, InstructionTuning, words)


def of_checkpoint(path: str) -> Stored:
    """The settings that a checkpoint holds.

    Raises:
        ValueError: The file is missing, or it is not a valid checkpoint (truncated, of another program, not weights
            only).
    """
    expected = EXPECTED
    if (found := what_is(path)) != "a file":
        raise ValueError(f"ckpt_path: {path} is not a file, found {found}; {expected}")
    if not Path(path).stat().st_size:
        raise ValueError(f"ckpt_path: {path} is empty; {expected}")
    try:
        with warnings.catch_warnings(action="ignore"):
            checkpoint = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:  # torch's own message advises the user to trust the file
        raise ValueError(
            f"ckpt_path: {path} holds more than weights and plain data; it is not loaded, because it could run code; "
            f"{expected}"
        ) from error
    except Exception as error:  # torch raises many kinds of errors for a broken file
        reason = str(error).strip().split("\n")[0].partition(". ")[0] or type(error).__name__
        raise ValueError(f"ckpt_path: {path} is damaged or of another kind ({reason}); {expected}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"ckpt_path: {path} is not a Lightning checkpoint, because it holds no state_dict; {expected}")
    if "robustlm" not in checkpoint:
        raise ValueError(
            f"ckpt_path: {path} was written by another program, because it lacks the entry 'robustlm'; {expected}"
        )
    check_content(path, checkpoint)
    prompt = checked_prompt(path, checkpoint["robustlm"].get("prompt"))
    settings = dict(checkpoint.get("hyper_parameters") or {})
    settings.pop("_instantiator", None)
    class_path = settings.pop("_class_path", None)
    class_path = named(class_path) if isinstance(class_path, str) else class_path
    model = {"class_path": class_path, "init_args": settings} if class_path else {}
    return Stored(path, "checkpoint", model, prompt)


def with_checkpoint(args: list[str]) -> list[str]:
    """The arguments, with the value of `--ckpt_path` or `--resume` (a run's folder, `last`, `auto`) as a file.

    A test of a named run (`--run`) without a checkpoint uses the checkpoint of the run's fit.

    Raises:
        ValueError: The checkpoint does not exist, or both settings name one.
    """
    resume, path = _one_of(args)
    root, run = Path(setting(args, "trainer.default_root_dir") or "runs"), setting(args, "run")
    root = root / check_run_name(run) if run else root
    if resume is None and path is None:
        return _with_own_fit(args, root) if run and not flag_value(args, "ckpt_path")[0] else args
    name, value = ("ckpt_path", path) if path is not None else ("resume", str(resume))
    found: Path | None
    if value in ("auto", "last"):
        folder = setting(args, "checkpoint.dirpath")
        found = newest_checkpoint(root, Path(folder) if folder else None)
        whence = folder or f"the runs below {root}"
        if found is None and value == "last":
            raise ValueError(
                f"ckpt_path: last: no last.ckpt in {whence}; expected a run that was saved with checkpoint.save_last, "
                "or the path of a checkpoint"
            )
        said = (
            f"no checkpoint in {whence}: training starts from the beginning"
            if found is None
            else f"going on with {found}"
        )
    elif what_is(value) == "a folder":
        found = checkpoint_in(name, Path(value))
        said = f"{name}: {found}"
    elif name == "resume":
        found, said = Path(value), f"going on with {value}"
    else:
        return args
    rank_zero_only(print)(said)
    groups = [group for group in groups_of(args[1:]) if key_of(group) not in ("ckpt_path", "resume")]
    kept = [args[0], *(arg for group in groups for arg in group)]
    return [*kept, f"--ckpt_path={'null' if found is None else found}"]


def _one_of(args: Sequence[str]) -> tuple[str | None, str | None]:
    """The values of `resume` and `ckpt_path`, of which at least one is null. A flag overrides config files."""
    resume, path = setting(args, "resume"), setting(args, "ckpt_path")
    if resume is not None and path is not None:
        flagged = flag_value(args, "resume")[0], flag_value(args, "ckpt_path")[0]
        if flagged[0] == flagged[1]:
            raise ValueError(
                f"resume: {resume} and ckpt_path: {path} both name a checkpoint; expected only one of them"
            )
        return (resume, None) if flagged[0] else (None, path)
    return resume, path


def _with_own_fit(args: list[str], run: Path) -> list[str]:
    """The arguments of a test, with the checkpoint of the same run's fit if there is one."""
    if args[0] not in ("test", "predict", "validate") or not (run / FIT).is_dir():
        return args
    try:
        found = checkpoint_in("run", run / FIT)
    except ValueError as error:
        raise ValueError(f"{error}. --ckpt_path null takes none") from None
    rank_zero_only(print)(f"run: the weights are those of the fit in this run, {found} (--ckpt_path null takes none)")
    return [*args, f"--ckpt_path={found}"]


def check_run_name(name: object) -> str:
    """Return the name of a run. Raises `ValueError` if it is not a plain folder name."""
    check_name("run", str(name))
    return str(name)


def with_evaluation(args: list[str]) -> list[str]:
    """The arguments, with `--predictions.resume RUN` as the folder of the evaluation to continue."""
    folder = setting(args, "predictions.resume")
    if folder is None or (found := evaluation_in(Path(folder))) == Path(folder):
        return args
    rank_zero_only(print)(f"predictions.resume: {found}")
    return [*args, f"--predictions.resume={found}"]


def keep_metrics(folder: Path) -> None:
    """Rename the `metrics.csv` of a resumed run (to `metrics-1.csv`), since Lightning's logger would delete it."""
    file = folder / "metrics.csv"
    if getattr(rank_zero_only, "rank", 0) == 0 and file.is_file():
        free = (folder / f"metrics-{number}.csv" for number in count(1))
        file.rename(next(path for path in free if not path.exists()))


def part_of_run(command: str, run: Path, checkpoint: str | None, resume: str | None, evaluation: str | None) -> Path:
    """The folder of a named run in which a command logs.

    Args:
        command: `fit`, `test`, `predict` or `validate`.
        run: The run's folder.
        checkpoint: The checkpoint that a fit starts from.
        resume: `auto`: a fit continues an existing one, or starts anew if there is none.
        evaluation: Folder of the evaluation to continue.

    Raises:
        ValueError: The run already has a fit, and this command does not continue it.
    """
    if command == "fit":
        own = checkpoint is not None and (run / FIT).resolve() in Path(checkpoint).resolve().parents
        first = getattr(rank_zero_only, "rank", 0) == 0  # other processes start after the first one has written files
        return fit_folder(run, goes_on=own or resume == "auto" or not first)
    if evaluation is not None and Path(evaluation).resolve().parent == run.resolve():
        return run / Path(evaluation).name
    return evaluation_folder(run, command)


def _flat(value: object, prefix: str = "model") -> dict[str, object]:
    if isinstance(value, dict):
        inner = {k: v for name, item in value.items() for k, v in _flat(item, f"{prefix}.{name}").items()}
        return {name.replace(".init_args", ""): item for name, item in inner.items()}
    return {prefix: named(str(value)).rpartition(".")[2] if prefix.endswith(".class_path") else value}


def of_backbone(name: object) -> Stored | None:
    """The settings stored beside an adapter or a tuned model that is the backbone; null for any other model."""
    folder = Path(name).expanduser() if isinstance(name, str) else None
    if folder is None or what_is(folder) != "a folder":
        return None
    if (folder / FILE).exists() or (folder / "adapter_config.json").is_file():
        return Stored(str(name), "adapter", {}, read_prompt(folder))
    return None


class PromptLayer:
    """The stored prompt settings of one command, as a layer between its config files and its flags.

    Args:
        stored: The checkpoint or adapter that stores them.
        args: The arguments of the command, in order.
        words: The settings that the user gave.

    Raises:
        ValueError: A setting has a wrong type, or names a file that the user has not named.
    """

    def __init__(self, stored: Stored, args: Sequence[str], words: Words) -> None:
        self._stored, self._args = stored, args
        self._data = _data_class(args)
        known = _class_of(self._data)
        taken = _accepted(known) & set(known.prompt_settings)
        self._values = {name: value for name, value in (stored.prompt or {}).items() if name in taken}
        self._unknown = {name: value for name, value in (stored.prompt or {}).items() if name not in self._values}
        self._flagged = [name for name in self._values if flag_value(args, f"data.{name}")[0]]
        kept = {name: value for name, value in self._values.items() if name not in self._flagged}
        allow_prompt(f"{stored.kind} {stored.path}", kept, known, words)
        self._kept = kept
        self._defaults = {
            name: parameter.default for base in known.__mro__ for name, parameter in _parameters(base).items()
        }

    @property
    def section(self) -> dict[str, object]:
        """The section `data` of a config file with these settings; empty if there are none."""
        return {"class_path": self._data, "init_args": self._kept} if self._data and self._kept else {}

    def differences(self, used: Mapping[str, object]) -> Iterator[str]:
        """Messages: settings that flags override, and stored settings that override config files or defaults.

        Args:
            used: The datamodule's arguments after parsing.

        Raises:
            ValueError: A stored setting was lost in parsing.
        """
        path, kind = self._stored.path, self._stored.kind
        if self._stored.prompt is None:
            yield (
                f"{path} does not say how prompts were written in training, so this command's own settings are used: "
                f"data.{', data.'.join(InstructionDataModule.prompt_settings)}"
            )
            return
        flags, configs, defaults = [], [], []
        for name, value in self._values.items():
            taken, line = used.get(name), f"  data.{name}: {used.get(name)!r}"
            said = configured(self._args, f"data.{name}")
            if name in self._flagged:
                flags += [f"{line} ({kind}: {value!r})"] if taken != value else []
            elif taken != value:
                raise ValueError(
                    f"{path}: data.{name}: found {value!r}, which was read as {taken!r}; expected --data.{name}"
                )
            elif said is not None:
                configs += [f"{line} (config file: {said!r})"] if said != value else []
            elif value != self._defaults.get(name):
                defaults.append(line)
        for heading, lines in (
            (f"flags overrule the settings stored in {path}:", flags),
            (f"the settings stored in {path} overrule config files:", configs),
            (f"prompts are written as {path} says:", defaults),
            (
                f"settings stored in {path} that this datamodule does not have are not used:",
                [f"  data.{name}: {value!r}" for name, value in self._unknown.items()],
            ),
        ):
            if lines:
                yield "\n".join([heading, *lines])


def _accepted(cls: type) -> set[str]:
    """Names of the arguments of a class, including those that it passes on to its bases."""
    found: set[str] = set()
    for base in cls.__mro__:
        parameters = _parameters(base)
        found |= set(parameters)
        if parameters and not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
            break
    return found


def _parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(cls.__init__).parameters if "__init__" in vars(cls) else {}  # type: ignore[misc]


def _data_class(args: Sequence[str]) -> str | None:
    """The name of the datamodule's class from flags or config files."""
    given, value = flag_value(args, "data")
    if given and isinstance(value, str) and value.replace(".", "").isidentifier():
        return value
    found = setting(args, "data.class_path")
    if found is None:
        found = configured(args, "data")
    return found if isinstance(found, str) else None


def _class_of(name: str | None) -> type[InstructionDataModule]:
    """The datamodule class with this name; the base class if the name is wrong, which the parser reports later."""
    if name is None:
        return InstructionDataModule
    name = named(name)
    try:
        found = getattr(robustlm, name, None) if name in robustlm.__all__ else locate(name)
    except ErrorDuringImport:  # the parser meets the same error, and reports it
        found = None
    good = isinstance(found, type) and issubclass(found, InstructionDataModule)
    return found if good else InstructionDataModule  # type: ignore[return-value]


def model_differences(
    path: str, stored: Mapping[str, object], used: Mapping[str, object], args: Sequence[str]
) -> Iterator[str]:
    """Messages: model settings of a checkpoint that flags override, and those that override config files.

    Args:
        path: The checkpoint.
        stored: The checkpoint's section `model`.
        used: The section `model` after parsing.
        args: The arguments of the command.
    """
    kept, taken = _flat(stored), _flat(used)
    known: object = {}
    for file in configs_of(args):
        known = nested(read_yaml(Path(file).read_text(encoding="utf-8")), "model") or known
    said = _flat(known)
    flags = [f"  {k}: {taken[k]!r} (checkpoint: {kept[k]!r})" for k in kept if k in taken and taken[k] != kept[k]]
    taken_over = [k for k in kept if k in said and taken.get(k) == kept[k] != said[k]]
    configs = [f"  {k}: {taken[k]!r} (config file: {said[k]!r})" for k in taken_over]
    if flags:
        yield f"flags overrule the settings stored in {path}:\n" + "\n".join(flags)
    if configs:
        yield f"the settings stored in {path} overrule config files:\n" + "\n".join(configs)


def chosen_model(stored: Stored, used: Mapping[str, Any], words: Words) -> list[str]:
    """Messages about model settings that the checkpoint chose. Raises `ValueError` for those the user must allow."""
    return allow_model(stored.path, stored.model["init_args"], used.get("init_args") or {}, words)


def untrained(module: Any, checkpoint: str | None) -> str | None:
    """A message if a module with untrained weights is about to be used; null otherwise.

    Args:
        module: The module.
        checkpoint: The file that its weights come from, if any.
    """
    backbone = module.backbone
    if checkpoint is not None or getattr(backbone, "tuning", None) is None or getattr(backbone, "adapter", None):
        return None
    return (
        f"no checkpoint is named, so untrained weights are used: {backbone.name} with a new "
        f"{type(backbone.tuning).__name__}. --ckpt_path names trained ones; --model.tuning null uses the model as it is"
    )
