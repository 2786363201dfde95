"""Damaged checkpoints: the file and the entry are named, and no trainer begins with it."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from robustlm.checkpoints.content import check_content
from tests.bad_input.refused import refused
from tests.bad_input.test_bad_input import Site, resumed

WHOLE: dict[str, Any] = {
    "state_dict": {"w": torch.zeros(2, 3)},
    "hyper_parameters": {"_class_path": "robustlm.modules.anit.ANIT"},
    "robustlm": {"seed": 0},
    "pytorch-lightning_version": "2.6.6",
    "epoch": 0,
    "global_step": 4,
    "loops": {"fit_loop": {"epoch_progress": {}}},
    "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []}],
    "lr_schedulers": [{"last_epoch": 1}],
}


def test_a_whole_checkpoint_passes() -> None:
    check_content("x.ckpt", WHOLE)
    check_content("x.ckpt", {name: WHOLE[name] for name in WHOLE if name not in ("optimizer_states", "lr_schedulers")})


DAMAGED: dict[str, tuple[dict[str, Any], str]] = {
    "weights in a list": ({"state_dict": [1]}, "state_dict: found list"),
    "a number for a weight": ({"state_dict": {"w": 1.0}}, "state_dict: found float for 'w'"),
    "a number for a name": ({"state_dict": {0: torch.zeros(1)}}, "state_dict: found Tensor for 0"),
    "complex weights": ({"state_dict": {"w": torch.zeros(1, dtype=torch.complex64)}}, "complex or sparse"),
    "sparse weights": ({"state_dict": {"w": torch.zeros(2).to_sparse()}}, "complex or sparse"),
    "settings in a list": ({"hyper_parameters": [1]}, "hyper_parameters: found list"),
    "a number for a setting": ({"hyper_parameters": {5: 1}}, "hyper_parameters: found the name 5"),
    "own entries in a list": ({"robustlm": [1]}, "robustlm: found list"),
    "a text for a seed": ({"robustlm": {"seed": "x"}}, "seed: found x"),
    "not a number for a seed": ({"robustlm": {"seed": math.nan}}, "seed: found nan"),
    "a text for a step": ({"global_step": "x"}, "global_step: found str"),
    "a negative step": ({"global_step": -3}, "global_step: found -3"),
    "no epoch": ({"epoch": None}, "epoch: found NoneType"),
    "words for a version": ({"pytorch-lightning_version": "abc"}, "version: found 'abc'"),
    "a list for a version": ({"pytorch-lightning_version": [1]}, "version: found list"),
    "counters in a list": ({"loops": [1]}, "loops: found list"),
    "counters of another kind": ({"loops": {"fit_loop": {"x": 1}}}, "loops: the counters of fit_loop are missing"),
    "a tensor for a setting": ({"hyper_parameters": {"r": [torch.zeros(1)]}}, "hyper_parameters: r: found Tensor"),
    "rows in a list": ({"NoisyInstructionDataModule": [1]}, "NoisyInstructionDataModule: found list"),
    "states by name": ({"optimizer_states": {}}, "optimizer_states: found dict"),
    "no state": ({"optimizer_states": []}, "optimizer_states: found 0 entries"),
    "two states": ({"lr_schedulers": [{}, {}]}, "lr_schedulers: found 2 entries"),
    "an empty state": ({"optimizer_states": [{"state": "x"}]}, "optimizer_states: the state or the param_groups"),
    "moments that are not finite": (
        {"optimizer_states": [{"state": {0: {"exp_avg": torch.tensor([math.nan])}}, "param_groups": []}]},
        "exp_avg of weight 0 holds numbers that are not finite",
    ),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_entry_is_named(kind: str) -> None:
    changes, says = DAMAGED[kind]
    with pytest.raises(ValueError, match=rf"^ckpt_path: x\.ckpt is damaged or of another kind: .*{says}.*expected a"):
        check_content("x.ckpt", {**WHOLE, **changes})


@pytest.mark.parametrize("name", ["state_dict", "robustlm", "loops", "epoch", "global_step"])
def test_a_missing_entry_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is missing"):
        check_content("x.ckpt", {key: value for key, value in WHOLE.items() if key != name})


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "cut in half": lambda raw: raw[: len(raw) // 2],
    "cut at the end": lambda raw: raw[:-1],
    "a hole": lambda raw: raw[:200] + bytes(400) + raw[600:],
    "text": lambda raw: b"hello\n",
    "a page": lambda raw: b"<!DOCTYPE html><html>404</html>",
    "a pointer to a large file": lambda raw: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "zeros": lambda raw: bytes(5_000),
    "compressed": gzip.compress,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_damaged_file_is_named(kind: str, site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    file = site.folder / site.checkpoint()
    file.write_bytes(BROKEN[kind](file.read_bytes()))
    assert "ckpt_path: x.ckpt" in refused(resumed(site, "x.ckpt"), site.folder, capfd)


LATE: dict[str, dict[str, Any]] = {
    "no counters": {"loops": {}},
    "no seed": {"robustlm": {}},
    "half of the counters": {"loops": {"fit_loop": {"epoch_progress": {}}}},
    "counters of another kind": {"loops": {"fit_loop": {"epoch_progress": {"x": 1}}}},
}


@pytest.mark.parametrize("kind", LATE)
def test_what_lightning_cannot_restore_is_no_traceback(
    kind: str, site: Site, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustlm.modules.base.InstructionTuning.load_state_dict", lambda *_, **__: None)
    message = refused(resumed(site, site.checkpoint(**LATE[kind])), site.folder, capfd)
    assert "ckpt_path: x.ckpt cannot be restored (" in message


@pytest.mark.parametrize("name", ["x.ckpt", "folder.ckpt"])
def test_a_circle_of_links(name: str, site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    Path(name).symlink_to(name)
    assert f"ckpt_path: {name} is not a file, found links in a circle" in refused(
        resumed(site, name), site.folder, capfd
    )
