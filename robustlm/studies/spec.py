"""Study files: arms, seeds, models, data sets and conditions, read from YAML and checked."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import yaml

from robustlm.assets import is_packaged_config
from robustlm.studies.layers import layered
from robustlm.studies.variables import filled

By = Literal["passes", "time"]
"""What equal compute is measured by."""

Flags = tuple[str, ...]
"""Options of `robustlm fit` or `robustlm test`, as a shell would pass them."""

Words = tuple[tuple[str, str], ...]
"""Names in capitals, each with the text that stands for it."""

_STUDY = (
    "about", "both", "fit", "test", "seeds", "seed_flags", "models", "data", "groups", "conditions", "arms",
    "sweeps", "shared_time", "set",
)  # fmt: skip
_ARM = ("like", "fit", "test", "against", "compute", "weights")
_SWEEP = ("like", "fit", "setting", "values", "test", "against")
_MODEL = ("both", "fit", "test", "set")
_DATA = ("both", "fit", "test", "after")
_COMPUTE = ("equal_to", "by", "trial")


@dataclass(frozen=True, slots=True)
class Compute:
    """How many steps an arm gets, if it must cost as much as another arm."""

    equal_to: str
    """The other arm."""
    by: By
    """`passes`: positions that the model runs, forward and backward; `time`: seconds of training."""
    trial: int
    """Steps of the short fit that measures what a step of this arm costs; the first one is not counted."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to tune and test: options that it adds to those of the study."""

    name: str
    fit: Flags | None
    """Options of `fit`; null: nothing is tuned."""
    test: Flags
    against: tuple[str, ...] = ()
    """Arms that it is compared with."""
    compute: Compute | None = None
    sweep: tuple[str, float] | None = None
    """The sweep that it belongs to, and the value of its setting."""
    weights: str = ""
    """The arm whose tuned weights it tests, those of the same seed and data; empty: its own."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A data set of a study, with one of its models: the options that name what is tuned and tested on which rows."""

    name: str
    """`DATA`, or `MODEL, DATA`; empty: model and rows are those of the study's own options."""
    fit: Flags
    test: Flags
    model: str = ""
    """Name of the model; empty: the study names no models."""
    data: str = ""
    """Name of the data set; empty: the study names no data sets."""
    words: Words = ()
    """What stands for `$NAME` in all options of the runs; from the keys `set` of the study and of the model."""
    after: str = ""
    """Name of the rows (`name`) that each arm was tuned on before, and whose adapter it begins with; empty: none."""


@dataclass(frozen=True, slots=True)
class Study:
    """A study file, at one of its scales."""

    name: str
    """Stem of the file, with the scale after a hyphen."""
    about: str
    fit: Flags
    test: Flags
    seeds: tuple[int, ...]
    seed_flags: tuple[str, ...]
    """Settings that get the seed, of `fit` and `test`."""
    data: tuple[Rows, ...]
    conditions: tuple[str, ...]
    """Conditions of the tests; empty: those of the study's options."""
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    """Names of kinds of datasets that reports show means of, each with its datasets."""
    arms: tuple[Arm, ...]
    shared_time: bool
    """Whether time may be measured while several runs share the machine."""
    file: str = ""
    """The file, and its scale, as reports name them."""
    unset: tuple[str, ...] = ()
    """Environment variables that the options name and that are not set."""

    def arm(self, name: str) -> Arm:
        """The arm with this name. Raises `KeyError` if there is none."""
        return next(arm for arm in self.arms if arm.name == name)


def read_study(file: Path, scale: str | None = None) -> Study:
    """Read a study file.

    Args:
        file: The file.
        scale: Which of its scales; null: the file has none.

    Raises:
        ValueError: The file is no study, or has no such scale; the message names the file, the key, what was found and
            what was expected.
    """
    content = layered(file, scale)
    try:
        study = _study(file.stem if scale is None else f"{file.stem}-{scale}", content)
    except ValueError as error:
        raise ValueError(f"study: {file}: {error}") from None
    named = f"configs/studies/{file.name}" if is_packaged_config(str(file)) else str(file)
    return _filled(replace(study, file=named if scale is None else f"{named} ({scale})"))


def _filled(study: Study) -> Study:
    """The study with environment variables in its options replaced by their values."""
    unset: dict[str, None] = {}

    def own(flags: Flags) -> Flags:
        return tuple(filled(flag, unset) for flag in flags)

    return replace(
        study,
        fit=own(study.fit),
        test=own(study.test),
        data=tuple(
            replace(
                rows,
                fit=own(rows.fit),
                test=own(rows.test),
                words=tuple((name, filled(text, unset)) for name, text in rows.words),
            )
            for rows in study.data
        ),
        arms=tuple(
            replace(arm, fit=None if arm.fit is None else own(arm.fit), test=own(arm.test)) for arm in study.arms
        ),
        unset=tuple(unset),
    )


def _study(name: str, content: object) -> Study:
    whole = _mapping("the file", content, _STUDY)
    both = _flags("both", whole.get("both"))
    seeds = _seeds(whole.get("seeds", [0]))
    conditions = _texts("conditions", whole.get("conditions", []))
    arms = _arms(whole)
    _check_arms(arms)
    return Study(
        name=name,
        about=str(whole.get("about") or ""),
        fit=(*both, *_flags("fit", whole.get("fit"))),
        test=(*both, *_flags("test", whole.get("test"))),
        seeds=seeds,
        seed_flags=_texts("seed_flags", whole.get("seed_flags", ["seed_everything", "data.seed"])),
        data=_with_models(_words("set", whole.get("set")), _models(whole.get("models")), _data(whole.get("data"))),
        conditions=conditions,
        groups=tuple(
            (name, _texts(f"groups: {name}", own))
            for name, own in _mapping("groups", whole.get("groups") or {}, None).items()
        ),
        arms=tuple(arms.values()),
        shared_time=_boolean("shared_time", whole.get("shared_time", False)),
    )


def _arms(whole: Mapping[str, object]) -> dict[str, Arm]:
    given = _mapping("arms", whole.get("arms"), None)
    if not given:
        raise ValueError("arms: found none; expected a name and options for each way to tune")
    found: dict[str, Arm] = {}
    for name, value in given.items():
        found[name] = _arm(name, _mapping(f"arms: {name}", {} if value is None else value, _ARM), found)
    for name, value in _mapping("sweeps", whole.get("sweeps") or {}, None).items():
        for arm in _sweep(name, _mapping(f"sweeps: {name}", value, _SWEEP), found):
            if arm.name in found:
                raise ValueError(f"sweeps: {name}: makes the arm {arm.name!r}, which is there already")
            found[arm.name] = arm
    return found


def _arm(name: str, given: Mapping[str, object], known: Mapping[str, Arm]) -> Arm:
    where = f"arms: {name}"
    weights = given.get("weights")
    if weights is not None and (weights not in known or known[str(weights)].fit is None):
        tuned = ", ".join(one for one, arm in known.items() if arm.fit is not None) or "none"
        raise ValueError(f"{where}: weights: found {weights!r}; expected an arm above it that is tuned: {tuned}")
    base = _like(where, weights if given.get("like") is None else given["like"], known)
    weights = str(weights or base.weights)
    if weights and given.get("fit") is not None:
        raise ValueError(f"{where}: fit: found options, but its weights are those of {weights!r}; expected one of both")
    fit: Flags | None = (*(base.fit or ()), *_flags(f"{where}: fit", given.get("fit")))
    if weights or given.get("fit", base.fit) is None:
        fit = None
    return Arm(
        name=name,
        fit=fit,
        test=(*base.test, *_flags(f"{where}: test", given.get("test"))),
        against=_texts(f"{where}: against", given.get("against", [])),
        compute=_compute(f"{where}: compute", given.get("compute")),
        weights=weights,
    )


def _like(where: str, name: object, known: Mapping[str, Arm]) -> Arm:
    if name is None:
        return Arm("", (), ())
    if name not in known:
        raise ValueError(f"{where}: like: found {name!r}; expected an arm above it: {', '.join(known) or 'none'}")
    return known[str(name)]


def _sweep(name: str, given: Mapping[str, object], known: Mapping[str, Arm]) -> list[Arm]:
    where = f"sweeps: {name}"
    base = _like(where, given.get("like"), known)
    if base.weights:
        raise ValueError(
            f"{where}: like: {base.name!r} has the weights of {base.weights!r}; expected an arm that is tuned"
        )
    setting, values = given.get("setting"), given.get("values")
    if not isinstance(setting, str) or not re.fullmatch(r"[\w.]+", setting):
        raise ValueError(
            f"{where}: setting: found {setting!r}; expected a setting of `fit`, as model.adversary.epsilon"
        )
    if not isinstance(values, list) or len(values) < 2 or not all(_is_number(value) for value in values):
        raise ValueError(f"{where}: values: found {values!r}; expected two or more numbers")
    against = _texts(f"{where}: against", given.get("against", []))
    fit, test = (_flags(f"{where}: {key}", given.get(key)) for key in ("fit", "test"))
    return [
        replace(
            base,
            name=f"{name} {value:g}",
            fit=(*(base.fit or ()), *fit, f"--{setting}", str(value)),
            test=(*base.test, *test),
            against=against,
            compute=None,
            sweep=(name, float(value)),
        )
        for value in values
    ]


def _check_arms(arms: Mapping[str, Arm]) -> None:
    places: dict[str, str] = {}
    for name, arm in arms.items():
        if unknown := [other for other in arm.against if other not in arms or other == name]:
            raise ValueError(f"arms: {name}: against: found {unknown[0]!r}; expected other arms of this study")
        other = places.setdefault(slug(name), name)
        if other != name:
            raise ValueError(f"arms: {name!r} and {other!r} would share the folder {slug(name)}; rename one")
        if arm.compute is None:
            continue
        target = arms.get(arm.compute.equal_to)
        if target is None or target.name == name or target.fit is None or arm.fit is None:
            raise ValueError(
                f"arms: {name}: compute: equal_to: found {arm.compute.equal_to!r}; expected another arm that is tuned"
            )
        if target.compute is not None:
            raise ValueError(
                f"arms: {name}: compute: equal_to: {target.name!r} has the compute of an arm itself; name "
                f"{target.compute.equal_to!r}"
            )


def _compute(where: str, value: object) -> Compute | None:
    if value is None:
        return None
    given = _mapping(where, value, _COMPUTE)
    by, trial = given.get("by", "passes"), given.get("trial", 50)
    if by not in get_args(By):
        raise ValueError(f"{where}: by: found {by!r}; expected passes or time")
    if not isinstance(trial, int) or isinstance(trial, bool) or trial < 2:
        raise ValueError(f"{where}: trial: found {trial!r}; expected 2 or more steps")
    return Compute(str(given.get("equal_to")), "time" if by == "time" else "passes", trial)


def _models(value: object) -> tuple[Rows, ...]:
    """The models, as rows without data."""
    if value is None:
        return (Rows("", (), ()),)
    return tuple(_options_of("models", name, own, _MODEL) for name, own in _named("models", value).items())


def _data(value: object) -> tuple[Rows, ...]:
    if value is None:
        return (Rows("", (), ()),)
    found = tuple(_options_of("data", name, own, _DATA) for name, own in _named("data", value).items())
    for rows in found:
        earlier = next((one for one in found if one.name == rows.after), None)
        if rows.after and (earlier is None or earlier is rows or earlier.after):
            raise ValueError(
                f"data: {rows.name}: after: found {rows.after!r}; expected another data set of this study, which comes "
                "after none itself"
            )
    return found


def _named(where: str, value: object) -> dict[str, object]:
    found = _mapping(where, value, None)
    if not found:
        raise ValueError(f"{where}: found none; expected a name and options for each, or no key `{where}`")
    return found


def _options_of(where: str, name: str, own: object, keys: Sequence[str]) -> Rows:
    """A model or a data set. Text stands for its options of both commands."""
    given = _mapping(f"{where}: {name}", {"both": own} if isinstance(own, str) else own or {}, keys)
    both = _flags(f"{where}: {name}: both", given.get("both"))
    fit, test = (_flags(f"{where}: {name}: {key}", given.get(key)) for key in ("fit", "test"))
    return Rows(
        name,
        (*both, *fit),
        (*both, *test),
        words=_words(f"{where}: {name}: set", given.get("set")),
        after=str(given.get("after") or ""),
    )


def _words(where: str, value: object) -> Words:
    found = _mapping(where, value or {}, None)
    for word, text in found.items():
        if not re.fullmatch("[A-Z]+", word) or not isinstance(text, str):
            raise ValueError(f"{where}: found {word!r}: {text!r}; expected names in capitals, each with a text")
    return tuple((word, str(text)) for word, text in found.items())


def _with_models(words: Words, models: Sequence[Rows], data: Sequence[Rows]) -> tuple[Rows, ...]:
    """Each model on each data set."""
    found = [
        Rows(
            name=", ".join(filter(None, (model.name, rows.name))),
            fit=(*model.fit, *rows.fit),
            test=(*model.test, *rows.test),
            model=model.name,
            data=rows.name,
            words=(*words, *model.words),
            after=", ".join(filter(None, (model.name, rows.after))) if rows.after else "",
        )
        for model in models
        for rows in data
    ]
    if len({slug(rows.name) for rows in found}) < len(found):
        raise ValueError("models and data: two names would share a folder; rename one")
    return tuple(found)


def _seeds(value: object) -> tuple[int, ...]:
    given = value if isinstance(value, list) else []
    found = tuple(one for one in given if isinstance(one, int) and not isinstance(one, bool) and one >= 0)
    if not found or len(set(found)) < len(given):
        raise ValueError(f"seeds: found {value!r}; expected different whole numbers from 0, as [0, 1, 2]")
    return found


def _texts(where: str, value: object) -> tuple[str, ...]:
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueError(f"{where}: found {value!r}; expected a list of texts")
    if len(set(found)) < len(found):
        raise ValueError(f"{where}: found {value!r}; expected each text once")
    return tuple(found)


def _boolean(where: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{where}: found {value!r}; expected true or false")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mapping(where: str, value: object, keys: Sequence[str] | None) -> dict[str, object]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{where}: found {value!r}; expected keys and values")
    if keys is not None and (odd := [key for key in value if key not in keys]):
        raise ValueError(f"{where}: found the key {odd[0]!r}; expected some of {', '.join(keys)}")
    return value


def _flags(where: str, value: object) -> Flags:
    """Options, as in a shell (`--model ANIT`), as settings by name (`{model: ANIT}`), or a list of such parts."""
    if value is None:
        return ()
    if isinstance(value, list):
        return tuple(flag for part in value for flag in _flags(where, part))
    if isinstance(value, str):
        try:
            found = tuple(shlex.split(value))
        except ValueError as error:
            raise ValueError(f"{where}: found {value!r}, which a shell could not read: {error}") from None
        if found and not found[0].startswith("-"):
            raise ValueError(f"{where}: found {found[0]!r} first; expected an option, as --model or -c")
        return found
    settings = _mapping(where, value, None)
    return tuple(part for key, one in settings.items() for part in (f"--{key}", plain(one)))


def plain(value: object) -> str:
    """A value of YAML as one argument of a command."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True).removesuffix("...\n").strip()


def slug(name: str) -> str:
    """The name of a folder for an arm or a data set: other characters than letters, digits and `.+=_-` become `-`."""
    return re.sub(r"[^\w.+=-]+", "-", name).strip("-.") or "-"
