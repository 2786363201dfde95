"""What decides how prompts are written travels with checkpoint and adapter, and every difference is said."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from robustlm import datamodules
from robustlm.cli import main, run
from robustlm.datamodules import InstructionDataModule, TextDataModule
from robustlm.evaluation.table import read_table

OTHER = {
    "rows": {"train", "validation", "test", "examples", "on_bad_row", "rejected", "samples", "unlabelled"},
    "what a test asks": {"conditions", "prompts", "shots", "attack", "scoring", "draws", "budget", "seed"},
    "what training makes of a prompt, which decides it no longer in a test": {
        *("phrasing", "paraphrases", "noise", "distortion", "beta", "variants", "group_size", "negatives"),
        *("assistant_turns", "noisy_turns"),
    },
    "batches": {
        *("batch_size", "batch_tokens", "eval_batch_size", "group_by_length", "replays", "num_workers", "shuffle"),
        *("cache_dir", "cache_above", "stream", "replay"),
    },
}
"""Arguments of datamodules that decide no prompt's text, or decide it anew in each test."""
CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}<assistant>"
QUIET = [
    *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    "--model.max_new_tokens=2",
]
CKPT = "runs/version_0/checkpoints/last.ckpt"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llama: str, train_file: str, test_file: str) -> Path:
    """A working folder with rows and a model whose tokenizer has a chat template."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(llama, "model")
    tokenizer: Any = AutoTokenizer.from_pretrained("model")
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained("model")
    shutil.copy(train_file, "train.jsonl")
    shutil.copy(test_file, "test.jsonl")
    return tmp_path


def fit(*more: str) -> None:
    made = ["fit", "--model=InstructionTuning", "--model.backbone=model", "--data=InstructionDataModule"]
    rows = [] if any(one.startswith("-c") for one in more) else ["--data.train=train.jsonl"]
    main([*made, *rows, "--data.batch_size=8", "--trainer.max_steps=1", *QUIET, *more])


def test_every_argument_of_data_is_classified() -> None:
    kinds = [vars(datamodules)[name] for name in datamodules.__all__]
    assert TextDataModule.prompt_settings == ()  # running text has no prompts
    for kind in (one for one in kinds if issubclass(one, InstructionDataModule) and one is not TextDataModule):
        named = {
            name
            for base in kind.__mro__
            if issubclass(base, InstructionDataModule)
            for name, parameter in inspect.signature(base.__init__).parameters.items()
            if name != "self" and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        }
        decides, other = set(kind.prompt_settings), set().union(*OTHER.values())
        assert named <= decides | other, (
            "say of each whether it decides the prompt (InstructionDataModule.prompt_settings)"
        )
        assert not decides & other
        assert decides <= named
        assert set(kind.prompt_files) <= decides


def test_prompts_are_those_of_training(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit("--data.template=chat", "--data.max_length=200", "--data.validation=train.jsonl")
    capsys.readouterr()
    cli = run(
        ["test", "-c", "anit", "--data.test=train.jsonl", "--data.conditions=[clean]", "--ckpt_path", CKPT, *QUIET]
    )
    assert cli is not None
    said = capsys.readouterr().out
    assert f"the settings stored in {CKPT} overrule config files:" in said
    assert "  data.template: 'chat' (config file: 'plain')" in said
    assert "  data.max_length: 200 (config file: 512)" in said
    asked = {row["sample_id"]: row["prompt"] for row in read_table(Path("runs/version_1/predictions.parquet"))}
    trained = InstructionDataModule(train="train.jsonl", template="chat", max_length=200)
    trained.connect(cli.model.backbone)
    rows = trained.read("train")
    decode = cli.model.backbone.tokenizer.decode
    assert asked == {s.id: decode(row.prompt_ids) for s, row in zip(rows.samples, rows.encoded, strict=True)}
    assert all("<assistant>" in prompt for prompt in asked.values())

    base = ["test", "--model=InstructionTuning", "--data=RobustnessDataModule", "--data.test=test.jsonl", *QUIET]
    adapter = f"--model.backbone={CKPT.partition('/checkpoints')[0]}/adapter"
    cli = run([*base, adapter, "--model.tuning=null"])
    assert cli is not None
    assert cli.datamodule.template == "chat"
    assert cli.datamodule.max_length == 200
    said = capsys.readouterr().out
    assert (
        "prompts are written as runs/version_0/adapter says:\n  data.template: 'chat'\n  data.max_length: 200" in said
    )
    assert "untrained" not in said

    cli = run([*base, f"--ckpt_path={CKPT}", "--data.template=plain"])
    assert cli is not None
    assert cli.datamodule.template == "plain"
    assert cli.datamodule.max_length == 200
    assert "data.template: 'plain' (checkpoint: 'chat')" in capsys.readouterr().out
    by_mapping = "--data={class_path: InstructionDataModule, init_args: {template: plain, test: test.jsonl}}"
    cli = run(["test", "--model=InstructionTuning", by_mapping, f"--ckpt_path={CKPT}", *QUIET])
    assert cli is not None
    assert cli.datamodule.template == "plain"
    assert cli.datamodule.max_length == 200


def test_what_is_kept_beside_an_adapter(site: Path) -> None:
    Path("rows.yaml").write_text("data: {init_args: {train: [{path: train.jsonl, format: none}]}}", encoding="utf-8")
    fit("-c=rows.yaml", "--data.template=Do: {instruction} {context} ->", "--data.bank=null")
    kept = json.loads(Path("runs/version_0/adapter/robustlm.json").read_text(encoding="utf-8"))
    assert (kept["format"], kept["robustlm"], kept["base_model"]) == (1, "0.1.0", "model")
    assert kept["prompt"] == {
        "template": "Do: {instruction} {context} ->",
        "instructions": "both",
        "unseen_share": None,
        "format": "none",
        "system": None,
        "chat_template_kwargs": None,
        "max_length": 512,
    }
    stored = torch.load(CKPT, weights_only=True)["robustlm"]["prompt"]
    assert stored == kept["prompt"]
    assert "template: 'Do: {instruction} {context} ->'" in Path("runs/version_0/adapter/README.md").read_text("utf-8")


def test_prompts_of_an_older_checkpoint_are_unknown(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit("--data.template=chat")
    content = torch.load(CKPT, weights_only=True)
    del content["robustlm"]["prompt"]
    torch.save(content, "old.ckpt")
    capsys.readouterr()
    main(["test", "--data=InstructionDataModule", "--data.test=test.jsonl", "--ckpt_path=old.ckpt", *QUIET])
    said = capsys.readouterr().out
    assert said.count("old.ckpt does not say how prompts were written in training") == 1
    (Path("runs/version_0/adapter") / "robustlm.json").unlink()
    main(["test", "--model=InstructionTuning", "--model.tuning=null", "--data=InstructionDataModule",
          "--data.test=test.jsonl", "--model.backbone=runs/version_0/adapter", *QUIET])  # fmt: skip
    assert "runs/version_0/adapter does not say how prompts were written" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ({"bank": "../secret.json"}, "is a file; a checkpoint may not choose which files are read"),
        ({"bank": "secret.json"}, "expected --data.bank secret.json, if it is yours, or --data.bank null"),
        ({"bank": "secret.json#a"}, "is a file"),
        ({"bank": ["ner"]}, "data.bank: found a list"),
        ({"template": {"class_path": "evilmod.Adv"}}, "data.template: found a class_path"),
        ({"template": 3}, "template"),
        ({"max_length": "secret.json"}, "data.max_length: found the text secret.json"),
        ({"format": "evilmod.shape"}, "format"),
        ({"train": "secret.json"}, None),
        (["template"], "prompt: found list; expected data settings by name"),
    ],
)
def test_a_checkpoint_names_no_file(
    prompt: Any, said: str | None, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("secret.json").write_text("{}", encoding="utf-8")
    model = {"_class_path": "robustlm.InstructionTuning", "backbone": "model", "tuning": None}
    counted = {"epoch": 0, "global_step": 0, "pytorch-lightning_version": "2.6.6"}
    own = {"seed": 0, "prompt": prompt}
    torch.save({"state_dict": {}, "robustlm": own, "hyper_parameters": model, **counted}, "foreign.ckpt")
    command = ["test", "--data=InstructionDataModule", "--data.test=test.jsonl", "--ckpt_path=foreign.ckpt", *QUIET]
    if said is None:
        main(command)
        assert "data.train: 'secret.json'" in capsys.readouterr().out  # said, and not used
        return
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_a_file_of_prompts_that_is_damaged(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit()
    file = Path("runs/version_0/adapter/robustlm.json")
    for text, said in (
        ("{", "not valid JSON"),
        ("[]", "the key format with a number is missing"),
        ('{"format": 2}', "format: found 2"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(SystemExit):
            main(["test", "--model=InstructionTuning", f"--model.backbone={file.parent}", "--data.test=test.jsonl"])
        assert f"{file}: {said}" in capsys.readouterr().err


def test_untrained_weights_are_named(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = [
        "test",
        "-c",
        "anit",
        "--model.backbone=model",
        "--data.test=test.jsonl",
        "--data.conditions=[clean]",
        *QUIET,
    ]
    main(base)
    line = "no checkpoint is named, so untrained weights are used: model with a new LoRA."
    assert capsys.readouterr().out.count(line) == 1
    main([*base, "--model.tuning=null"])
    assert "untrained" not in capsys.readouterr().out


class Own(InstructionDataModule):
    """A user's datamodule with few arguments, one of which decides the prompt."""

    prompt_settings = (*InstructionDataModule.prompt_settings, "mine")

    def __init__(
        self, train: str | None = None, test: str | None = None, template: str = "plain", mine: int = 1
    ) -> None:
        super().__init__(train=train, test=test, template=template)
        self.mine = mine


def test_settings_of_ones_own_datamodule(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = f"--data={__name__}.Own"
    main(["fit", "--model=InstructionTuning", "--model.backbone=model", own, "--data.train=train.jsonl", *QUIET,
          "--data.mine=7", "--data.template=chat", "--trainer.max_steps=1"])  # fmt: skip
    assert torch.load(CKPT, weights_only=True)["robustlm"]["prompt"]["mine"] == 7
    capsys.readouterr()
    cli = run(["test", own, "--data.test=test.jsonl", f"--ckpt_path={CKPT}", *QUIET])
    assert cli is not None
    assert (cli.datamodule.mine, cli.datamodule.template) == (7, "chat")
    said = capsys.readouterr().out
    assert "  data.mine: 7" in said
    assert "that this datamodule does not have are not used:\n  data.instructions: 'both'" in said
    run(["test", "--data=InstructionDataModule", "--data.test=test.jsonl", f"--ckpt_path={CKPT}", *QUIET])
    assert "that this datamodule does not have are not used:\n  data.mine: 7" in capsys.readouterr().out


def test_variables_of_the_chat_template_travel_too(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained("model")
    tokenizer.chat_template = CHAT + "{% if think is defined and not think %}<none>{% endif %}{{ budget }}"
    tokenizer.save_pretrained("model")
    fit("--data.template=chat", "--data.chat_template_kwargs={think: false, budget: 12}", "--data.system=Be brief.")
    kept = json.loads(Path("runs/version_0/adapter/robustlm.json").read_text(encoding="utf-8"))["prompt"]
    assert kept["chat_template_kwargs"] == {"think": False, "budget": 12}
    assert "chat_template_kwargs" in Path("runs/version_0/adapter/README.md").read_text("utf-8")
    base = ["test", "--model=InstructionTuning", "--data=InstructionDataModule", "--data.test=test.jsonl", *QUIET]
    capsys.readouterr()
    cli = run([*base, f"--ckpt_path={CKPT}"])
    assert cli is not None
    assert cli.datamodule.system == "Be brief."
    (end,) = {row["prompt"][-19:] for row in read_table(Path("runs/version_1/predictions.parquet"))}
    assert end == "<assistant><none>12"
    assert "  data.chat_template_kwargs: {'budget': 12, 'think': False}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*base, "--model.backbone=model", "--data.template=chat", "--data.chat_template_kwargs={thinking: false}"])
    assert "data.chat_template_kwargs: found 'thinking' (did you mean 'think'?)" in capsys.readouterr().err
