"""Wrong input of every kind: a short message that says what, where and what instead, and nothing half-written."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, BertModel

from robustlm.cli import main
from robustlm.cli.commands import COMMANDS
from robustlm.datamodules import InstructionDataModule, TextDataModule
from robustlm.modules import InstructionTuning
from robustlm.rows.writers import RowWriter
from robustlm.tools.scratch import build

ROW = {"instruction": "Say the opposite of the word.", "input": "hot", "output": "cold"}
ANIT = ("--model", "ANIT", "--data", "NoisyInstructionDataModule")
MOST_LINES, MOST_CHARACTERS = 25, 2_500


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one layer with random weights, made once."""
    folder = build(
        tmp_path_factory.mktemp("models") / "tiny",
        [" ".join(ROW.values())],
        vocab_size=300,
        hidden_size=32,
        layers=1,
        heads=2,
        intermediate_size=64,
    )
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


class Site:
    """The folder a command runs in, with one good model beside it."""

    def __init__(self, folder: Path, tiny: Path) -> None:
        self.folder = folder
        self.tiny = tiny

    def write(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return name

    def rows(self, *rows: Any, name: str = "rows.jsonl") -> str:
        return self.write(name, "".join(json.dumps(row) + "\n" for row in rows or (ROW,) * 3))

    def config(self, content: Any, name: str = "run.yaml") -> str:
        return self.write(name, content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))

    def model(self, name: str = "model") -> Path:
        """A copy of the tiny model, to be broken."""
        return Path(shutil.copytree(self.tiny, self.folder / name))

    def read(self, rows: str) -> list[str]:
        """The command that reads rows and needs no model: the same reader as everywhere, in a twentieth of the time."""
        return ["init", "new", rows, "--vocab_size", "300"]

    def check(self, *flags: str, train: str | None = None, model: str | Path | None = None) -> list[str]:
        return self.command("check", *flags, train=train, model=model)

    def command(
        self, command: str, *flags: str, train: str | None = None, model: str | Path | None = None
    ) -> list[str]:
        """A command whose arguments are right but for the ones given."""
        source = train if train is not None else self.rows()
        backbone = str(model if model is not None else self.tiny)
        return [command, *ANIT, "--model.backbone", backbone, "--data.train", source, *flags]

    def checkpoint(self, **changes: Any) -> str:
        """A checkpoint as a run of the tiny model writes it, but for the changes."""
        settings = {
            "_class_path": "robustlm.modules.anit.ANIT",
            "_instantiator": "lightning.pytorch.cli.instantiate_module",
            "backbone": str(self.tiny),
            **changes.pop("settings", {}),
        }
        content = {
            "state_dict": {},
            "hyper_parameters": settings,
            "robustlm": {"seed": 0},
            "pytorch-lightning_version": "2.6.6",
            "epoch": 0,
            "global_step": 0,
            "loops": {},
            **changes,
        }
        torch.save({name: value for name, value in content.items() if value is not None}, self.folder / "x.ckpt")
        return "x.ckpt"


Make = Callable[[Site], list[str]]


@dataclass(frozen=True)
class Kind:
    """One kind of wrong input: how to make it, and what the message must say."""

    make: Make
    says: tuple[str, ...]


KINDS: dict[str, Kind] = {}


def kind(*says: str) -> Callable[[Make], Make]:
    """Decorator: a function that sets a site up and returns the arguments is a kind of wrong input."""

    def add(make: Make) -> Make:
        assert make.__name__ not in KINDS
        KINDS[make.__name__] = Kind(make, says)
        return make

    return add


# --------------------------------------------------------------------------------------------------- rows


@kind("nowhere.jsonl", "no such file", ".jsonl")
def rows_missing_file(site: Site) -> list[str]:
    return site.read("nowhere.jsonl")


@kind("rows.jsonl", "no rows", "at least one")
def rows_empty_file(site: Site) -> list[str]:
    return site.read(site.write("rows.jsonl", ""))


@kind("data: no file for split 'train'", "train.jsonl", "found test.jsonl")
def rows_folder_without_split(site: Site) -> list[str]:
    site.rows(name="data/test.jsonl")
    return site.read("data")


@kind("train.jsonl, train.json", "name one")
def rows_folder_with_two_files_for_a_split(site: Site) -> list[str]:
    site.rows(name="data/train.jsonl")
    site.rows(name="data/train.json")
    return site.read("data")


@kind("rows.xls", "unknown kind of file", ".parquet")
def rows_unknown_ending(site: Site) -> list[str]:
    return site.read(site.write("rows.xls", "hello\n"))


@kind("rows.jsonl:2", "not UTF-8", "0xf6", "convert")
def rows_not_utf8(site: Site) -> list[str]:
    good = json.dumps(ROW).encode()
    return site.read(site.write("rows.jsonl", good + b"\n" + good.replace(b"hot", b"h\xf6t") + b"\n"))


@kind("rows.jsonl.gz:", "ends too early", "again")
def rows_truncated_gzip(site: Site) -> list[str]:
    whole = gzip.compress(b"".join(json.dumps({**ROW, "id": str(n)}).encode() + b"\n" for n in range(999)))
    return site.read(site.write("rows.jsonl.gz", whole[:-200]))


@kind("rows.jsonl.gz:1", "expected gzip")
def rows_not_gzip(site: Site) -> list[str]:
    return site.read(site.write("rows.jsonl.gz", json.dumps(ROW)))


@kind("1 of 3 rows", "rows.jsonl:3: broken JSON", "column", "on_bad_row=skip")
def rows_broken_json(site: Site) -> list[str]:
    good = json.dumps(ROW)
    return site.read(site.write("rows.jsonl", f"{good}\n{good}\n{good[:-9]}\n"))


@kind("rows.jsonl:2", "found a list", "expected an object")
def rows_lists_for_objects(site: Site) -> list[str]:
    return site.read(site.write("rows.jsonl", f"{json.dumps(ROW)}\n[1, 2]\n"))


@kind("rows.json:1", "found '{'", "expected '['")
def rows_json_object_for_list(site: Site) -> list[str]:
    return site.read(site.write("rows.json", json.dumps(ROW)))


@kind("rows.json:1", ".jsonl")
def rows_lines_named_json(site: Site) -> list[str]:
    return site.read(site.write("rows.json", f"{json.dumps(ROW)}\n{json.dumps(ROW)}\n"))


@kind("rows.jsonl:2", "found ask, reply", "alpaca (instruction, output)")
def rows_unknown_keys(site: Site) -> list[str]:
    return site.read(site.rows(ROW, {"ask": "Say it.", "reply": "it"}))


@kind("rows.jsonl:1", "alpaca and messages", "format=")
def rows_ambiguous_keys(site: Site) -> list[str]:
    return site.read(site.rows({**ROW, "messages": []}))


@kind("rows.jsonl:2", "output is no string", "7 (int)")
def rows_wrong_type(site: Site) -> list[str]:
    return site.read(site.rows(ROW, {**ROW, "output": 7}))


@kind("rows.jsonl:2", "empty instruction", "' '")
def rows_empty_instruction(site: Site) -> list[str]:
    return site.read(site.rows(ROW, {**ROW, "instruction": " "}))


@kind("rows.jsonl:1", "empty output")
def rows_empty_target(site: Site) -> list[str]:
    return site.read(site.rows({**ROW, "output": ""}))


@kind("rows.jsonl:1", "label is no string", "1 (int)")
def rows_label_not_text(site: Site) -> list[str]:
    return site.read(site.rows({"text": "Nice.", "label": 1}))


@kind("rows.jsonl:1", "found 1 tags", "expected 2")
def rows_tags_and_tokens_differ_in_number(site: Site) -> list[str]:
    return site.read(site.rows({"tokens": ["Anna", "left"], "ner_tags": ["B-PER"]}))


@kind("rows.jsonl:1", "'PERSON'", "B-<type>")
def rows_tags_that_are_no_bio(site: Site) -> list[str]:
    return site.read(site.rows({"tokens": ["Anna", "left"], "ner_tags": ["PERSON", "O"]}))


@kind("rows.jsonl:2", "'a'", "rows.jsonl:1")
def rows_same_id(site: Site) -> list[str]:
    return site.read(site.rows({**ROW, "id": "a"}, {**ROW, "id": "a"}))


@kind("rows.jsonl:1", "found assistant, user", "assistant last")
def rows_chat_roles(site: Site) -> list[str]:
    said = [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Well?"}]
    return site.read(site.rows({"messages": said}))


@kind("rows.jsonl:1", "'maybe'", "('yes', 'no')")
def rows_choices_without_target(site: Site) -> list[str]:
    return site.read(site.rows({"instruction": "Say.", "target": "maybe", "choices": ["yes", "no"]}))


@kind("rows.jsonl:1", "'nerr'", "ner, re, tc")
def rows_unknown_task(site: Site) -> list[str]:
    return site.read(site.rows({"instruction": "Say.", "target": "maybe", "task": "nerr"}))


@kind("rows.jsonl:1", "'nerr'", "ner, nli")
def rows_unknown_bank(site: Site) -> list[str]:
    return site.read(site.rows({"instruction": "", "target": "maybe", "bank": "nerr"}))


@kind("data.train", "2 of 2 rows", "/rows:2", "tokens, more than max_length 16")
def rows_too_long(site: Site) -> list[str]:
    return site.check("--data.max_length", "16", train=site.rows(ROW, {**ROW, "output": "cold " * 30}))


@kind("rows.csv:3", "found 3 fields", "expected 2 (instruction, output)")
def rows_ragged_csv(site: Site) -> list[str]:
    return site.read(site.write("rows.csv", "instruction,output\nSay it.,it\nSay, it,it\n"))


@kind("rows.csv:2", "found Say it., it", "instruction")
def rows_csv_without_header(site: Site) -> list[str]:
    return site.read(site.write("rows.csv", "Say it.,it\nSay this.,this\n"))


@kind("rows.parquet", "not readable as Parquet")
def rows_broken_parquet(site: Site) -> list[str]:
    return site.read(site.write("rows.parquet", b"PAR1 and then nothing"))


@kind("'dev'", "pretrain, train, validation, test")
def rows_unknown_split(site: Site) -> list[str]:
    return site.check("--data.train", '[{"path": "builtin:quickstart", "split": "dev"}]')


@kind("format", "'alpacca'", "alpaca")
def rows_unknown_format(site: Site) -> list[str]:
    site.rows()
    return site.check("--data.train", '[{"path": "rows.jsonl", "format": "alpacca"}]')


@kind("rows.jsonl", "split='dev'", "leave it out")
def rows_split_of_a_file(site: Site) -> list[str]:
    site.rows()
    return site.check("--data.train", '[{"path": "rows.jsonl", "split": "dev"}]')


@kind("data.train", "'formt'", "did you mean 'format'")
def rows_unknown_key_of_a_source(site: Site) -> list[str]:
    site.rows()
    return site.check("--data.train", '[{"path": "rows.jsonl", "formt": "alpaca"}]')


@kind("data.train", "/rows:1", "two sources")
def rows_same_source_twice(site: Site) -> list[str]:
    site.rows()
    return site.check("--data.train", '["rows.jsonl", "rows.jsonl"]')


@kind("data.train", "rows.jsonl", "limit 0", "≥ 1")
def rows_limit_zero(site: Site) -> list[str]:
    site.rows()
    return site.check("--data.train", '[{"path": "rows.jsonl", "limit": 0}]')


@kind("no source", "data.train, data.validation, data.test")
def rows_none_named(site: Site) -> list[str]:
    return ["check", *ANIT, "--model.backbone", str(site.tiny)]


@kind("data.train: no source", "--data.train")
def rows_none_named_for_fit(site: Site) -> list[str]:
    return ["fit", *ANIT, "--model.backbone", str(site.tiny)]


@kind("data.test: no source", "--data.test")
def rows_none_named_for_test(site: Site) -> list[str]:
    return site.command("test")


@kind("no-such-owner/no-such-rows", "no such file", "Couldn't reach")
def rows_hub_name_offline(site: Site) -> list[str]:
    return site.check(train="no-such-owner/no-such-rows")


@kind("'builtin:quikstart'", "'builtin:quickstart'")
def rows_builtin_misspelt(site: Site) -> list[str]:
    return site.check(train="builtin:quikstart")


# ------------------------------------------------------------------------------------------------- configs


@kind("config: nowhere.yaml is not a file", "anit")
def config_missing(site: Site) -> list[str]:
    return ["check", "-c", "nowhere.yaml"]


@kind("config: annit", "did you mean 'anit'")
def config_missing_name(site: Site) -> list[str]:
    return ["check", "-c", "annit"]


@kind("config: conf is not a file", "YAML")
def config_is_a_folder(site: Site) -> list[str]:
    (site.folder / "conf").mkdir()
    return ["check", "-c", "conf"]


@kind("run.yaml:3", "broken YAML", "']'")
def config_broken_yaml(site: Site) -> list[str]:
    return site.check("-c", site.config("trainer:\n  max_epochs: [1\nmodel: x\n"))


@kind("run.yaml", "found a list", "`trainer:`")
def config_is_a_list(site: Site) -> list[str]:
    return site.check("-c", site.config("- fit\n- me\n"))


@kind("run.yaml", "not UTF-8", "byte 24")
def config_not_utf8(site: Site) -> list[str]:
    site.write("run.yaml", "seed_everything: 0 # größer".encode("latin-1"))
    return site.check("-c", "run.yaml")


@kind("'trainer.max_epoch'", "did you mean 'trainer.max_epochs'")
def config_unknown_key(site: Site) -> list[str]:
    return site.check("-c", site.config({"trainer": {"max_epoch": 2}}))


@kind("'trainr.max_epochs'", "did you mean 'trainer.max_epochs'")
def config_unknown_top_key(site: Site) -> list[str]:
    return site.check("-c", site.config({"trainr": {"max_epochs": 2}}))


@kind("model: ANIT has no argument 'adversery'", "did you mean 'adversary'")
def config_unknown_model_key(site: Site) -> list[str]:
    model = {"class_path": "ANIT", "init_args": {"backbone": str(site.tiny), "adversery": None}}
    return [
        "check",
        "-c",
        site.config({"model": model}),
        "--data",
        "NoisyInstructionDataModule",
        "--data.train",
        site.rows(),
    ]


@kind("model.adversary: NRM has no argument 'epsilom'", "did you mean 'epsilon'")
def config_unknown_nested_key(site: Site) -> list[str]:
    model = {
        "class_path": "ANIT",
        "init_args": {"adversary": {"class_path": "NRM", "init_args": {"epsilom": 1.0}}, "backbone": "x"},
    }
    return [
        "check",
        "-c",
        site.config({"model": model}),
        "--data",
        "NoisyInstructionDataModule",
        "--data.train",
        site.rows(),
    ]


@kind("trainer.max_epochs", "an integer", "'many'")
def config_wrong_type(site: Site) -> list[str]:
    return site.check("-c", site.config({"trainer": {"max_epochs": "many"}}))


@kind("data.noise.omega", "a number", "'much'")
def config_wrong_nested_type(site: Site) -> list[str]:
    data = {"class_path": "NoisyInstructionDataModule", "init_args": {"noise": {"omega": "much"}}}
    return ["check", "-c", site.config({"data": data}), "--model", "ANIT", "--model.backbone", str(site.tiny)]


@kind("model: 'ANNIT'", "did you mean 'ANIT'", "InstructionTuning")
def config_unknown_class(site: Site) -> list[str]:
    return site.check("--model", "ANNIT")


@kind("data: 'NoisyInstructionDatamodule'", "did you mean 'NoisyInstructionDataModule'")
def config_unknown_data_class(site: Site) -> list[str]:
    return site.check("--data", "NoisyInstructionDatamodule")


@kind("model.adversary: 'NRMM'", "did you mean 'NRM'", "FreeLB")
def config_unknown_adversary(site: Site) -> list[str]:
    return site.check("--model.adversary", "NRMM")


@kind("model: 'robustlm.adversaries.PGD'", "ANIT")
def config_class_of_another_kind(site: Site) -> list[str]:
    return site.check("--model", "robustlm.adversaries.PGD")


@kind("model.adversary: 'robustlm.models.tuning.LoRA'", "PGD")
def config_adversary_of_another_kind(site: Site) -> list[str]:
    return site.check("--model.adversary", "robustlm.models.tuning.LoRA")


@kind("model.tuning: 'Tuning'", "PrefixTuning")
def config_class_that_is_abstract(site: Site) -> list[str]:
    return site.check("--model.tuning", "Tuning")


@kind("NRM: epsilon is -1.0", "≥ 0")
def config_negative_epsilon(site: Site) -> list[str]:
    return site.check("--model.adversary", "NRM", "--model.adversary.epsilon", "-1")


@kind("noise.omega", "from 0 to 1", "2.0")
def config_omega_two(site: Site) -> list[str]:
    return site.check("--data.noise.omega", "2")


@kind("noise.phi", "from 0 to 1", "-0.5")
def config_negative_phi(site: Site) -> list[str]:
    return site.check("--data.noise.phi", "-0.5")


@kind("data.batch_size", "-1", "≥ 1")
def config_negative_batch_size(site: Site) -> list[str]:
    return site.check("--data.batch_size", "-1")


@kind("data.eval_batch_size", "0", "≥ 1")
def config_negative_eval_batch_size(site: Site) -> list[str]:
    return site.check("--data.eval_batch_size", "0")


@kind("data.num_workers", "-1", "≥ 0")
def config_negative_workers(site: Site) -> list[str]:
    return site.check("--data.num_workers", "-1")


@kind("data.max_length", "0", "≥ 2")
def config_max_length_zero(site: Site) -> list[str]:
    return site.check("--data.max_length", "0")


@kind("data.variants", "0", "≥ 1")
def config_negative_variants(site: Site) -> list[str]:
    return site.check("--data.variants", "0")


@kind("optimizer.lr", "-0.1", "≥ 0")
def config_negative_learning_rate(site: Site) -> list[str]:
    return site.check("--model.optimizer", "AdamW", "--model.optimizer.lr", "-0.1")


@kind("optimizer.adamw_lr", "-0.1", "≥ 0")
def config_negative_muon_rate(site: Site) -> list[str]:
    return site.check("--model.optimizer", "Muon", "--model.optimizer.adamw_lr", "-0.1")


@kind("optimizer.betas", "2.0", "[0, 1)")
def config_beta_of_two(site: Site) -> list[str]:
    return site.check("--model.optimizer", "AdamW", "--model.optimizer.betas", "[0.9, 2]")


@kind("schedule.warmup", "-1.0", "steps")
def config_negative_warmup(site: Site) -> list[str]:
    return site.check("--model.schedule.warmup", "-1")


@kind("model.schedule.decay", "'cosin'", "'cosine'")
def config_unknown_decay(site: Site) -> list[str]:
    return site.check("--model.schedule.decay", "cosin")


@kind("tuning.r", "0", "≥ 1")
def config_rank_zero(site: Site) -> list[str]:
    return site.check("--model.tuning", "LoRA", "--model.tuning.r", "0")


@kind("tuning.alpha", "0", "≥ 1")
def config_negative_alpha(site: Site) -> list[str]:
    return site.check("--model.tuning", "LoRA", "--model.tuning.alpha", "0")


@kind("tuning.dropout", "1.0", "[0, 1)")
def config_dropout_one(site: Site) -> list[str]:
    return site.check("--model.tuning", "LoRA", "--model.tuning.dropout", "1")


@kind("tuning", "qq_proj", "not found")
def config_target_modules_not_there(site: Site) -> list[str]:
    return site.check("--model.tuning", "LoRA", "--model.tuning.target_modules", '["qq_proj"]')


@kind("tuning.target_modules", "'(q_proj'", "all-linear")
def config_target_modules_bad_regex(site: Site) -> list[str]:
    return site.check("--model.tuning", "LoRA", "--model.tuning.target_modules", "(q_proj")


@kind("tuning.tokens", "0", "≥ 1")
def config_prefix_of_nothing(site: Site) -> list[str]:
    return site.check("--model.tuning", "PrefixTuning", "--model.tuning.tokens", "0")


@kind("adversarial_weight", "-1.0", "null")
def config_negative_weight(site: Site) -> list[str]:
    return site.check("--model.adversarial_weight", "-1")


@kind("max_new_tokens", "0", "≥ 1")
def config_max_new_tokens_zero(site: Site) -> list[str]:
    return site.check("--model.max_new_tokens", "0")


@kind("'random_tiposs'", "random_typos")
def config_unknown_noise(site: Site) -> list[str]:
    return site.check("--data.noise.kind", "random_tiposs")


@kind("noise.weights", "opposite", "mixed")
def config_noise_weights_without_mixed(site: Site) -> list[str]:
    return site.check("--data.noise.kind", "opposite", "--data.noise.weights", '{"opposite": 1}')


@kind("'opposit'", "opposite")
def config_noise_weights_unknown(site: Site) -> list[str]:
    return site.check("--data.noise.weights", '{"opposit": 1}')


@kind("data.conditions", "'cleen'", "clean, unseen")
def config_unknown_condition(site: Site) -> list[str]:
    return site.check("--data.conditions", '["clean", "cleen"]')


@kind("data.conditions", "'opposite@lots'", "<noise kind>@<omega>")
def config_condition_of_no_strength(site: Site) -> list[str]:
    return site.check("--data.conditions", '["opposite@lots"]')


@kind("data.conditions", "clean", "twice")
def config_condition_twice(site: Site) -> list[str]:
    return site.check("--data.conditions", '["clean", "clean"]')


@kind("data.conditions", "at least one")
def config_no_condition(site: Site) -> list[str]:
    return site.check("--data.conditions", "[]")


@kind("data.template", "'Answer: {context}'", "{instruction}")
def config_template_without_instruction(site: Site) -> list[str]:
    return site.check("--data.template", "Answer: {context}")


@kind("data.template", "contxt", "known: instruction")
def config_template_unknown_field(site: Site) -> list[str]:
    return site.check("--data.template", "{instruction} {contxt}")


@kind("data.template", "{instruction} {context", "'}'")
def config_template_unclosed(site: Site) -> list[str]:
    return site.check("--data.template", "{instruction} {context")


@kind("'alpacca'", "'alpaca'")
def config_template_misspelt(site: Site) -> list[str]:
    return site.check("--data.template", "alpacca")


@kind("data.template", "'chat'", "'plain'")
def config_chat_without_template(site: Site) -> list[str]:
    return site.check("--data.template", "chat")


@kind("data.bank", "'nerr'", "ner, nli")
def config_unknown_bank(site: Site) -> list[str]:
    return site.check("--data.bank", "nerr")


@kind("data.bank: nowhere.json", "no such file")
def config_missing_bank_file(site: Site) -> list[str]:
    return site.check("--data.bank", "nowhere.json")


@kind("data.bank: bank.json", "concise", "found list", "seen, unseen")
def config_broken_bank_file(site: Site) -> list[str]:
    return site.check("--data.bank", site.write("bank.json", '{"task": "x", "concise": ["Say it."]}'))


@kind("bank 'x'", "no seen phrasings")
def config_bank_without_seen(site: Site) -> list[str]:
    bank = {"task": "x", "concise": {"unseen": ["Say it."]}}
    return site.check("--data.bank", site.write("bank.json", json.dumps(bank)))


@kind("data.replays", "found 1", "expected 3", "FreeAT")
def config_replays_missing(site: Site) -> list[str]:
    return site.check("--model.adversary", "FreeAT")


@kind("FreeAT: replays is 1", "≥ 2")
def config_replays_of_one(site: Site) -> list[str]:
    return site.check("--model.adversary", "FreeAT", "--model.adversary.replays", "1")


@kind("model.adversary.norm", "'l2'", "'token'")
def config_norm_of_another_kind(site: Site) -> list[str]:
    return site.check("--model.adversary", "PGD", "--model.adversary.norm", "l2")


@kind("NRM: norm is 'batch'", "scale_radius_by_beta")
def config_norm_against_beta(site: Site) -> list[str]:
    flags = ("--model.adversary.norm", "batch", "--model.adversary.scale_radius_by_beta", "true")
    return site.check("--model.adversary", "NRM", *flags)


@kind("NRM: target_gap is 0.0", "> 0")
def config_target_gap_zero(site: Site) -> list[str]:
    return site.check("--model.adversary", "NRM", "--model.adversary.target_gap", "0")


@kind("tuning", "gradient_checkpointing to false")
def config_prefix_with_checkpointing(site: Site) -> list[str]:
    return site.check("--model.tuning", "PrefixTuning", "--model.loading.gradient_checkpointing", "true")


@kind("loading.four_bit", "GPU", "false")
def config_four_bit_without_gpu(site: Site) -> list[str]:
    return site.check("--model.loading.four_bit", "true")


@kind("model.tuning", "nothing is trained", "LoRA")
def config_nothing_to_train(site: Site) -> list[str]:
    return site.command("fit", "--model.tuning", "null")


@kind("model.tuning", "nothing is trained", "LoRA")
def config_nothing_to_train_checked(site: Site) -> list[str]:
    return site.check("--model.tuning", "null")


@kind("data.template", "expected text", "instruction")
def config_template_unquoted(site: Site) -> list[str]:
    data = "data: {class_path: NoisyInstructionDataModule, init_args: {template: {instruction: }}}"
    return ["check", "--model", "ANIT", "--model.backbone", str(site.tiny), "-c", site.config(data)]


@kind("data.conditions", "'unseen'", "data.bank")
def config_unseen_without_bank(site: Site) -> list[str]:
    return site.check("--data.conditions", '["clean", "unseen"]', "--data.test", site.rows(name="test.jsonl"))


@kind("data: InstructionDataModule", "ANIT", "NoisyInstructionDataModule")
def config_plain_data_for_anit(site: Site) -> list[str]:
    return site.check("--data", "InstructionDataModule")


@kind("nowhere/bad", "no folder", "create it")
def config_rejected_in_missing_folder(site: Site) -> list[str]:
    return site.check("--data.on_bad_row", "skip", "--data.rejected", "nowhere/bad.jsonl", train=site.rows(ROW, {}))


# -------------------------------------------------------------------------------------------------- models


@kind("'./nowhere'", "not a folder")
def model_missing_folder(site: Site) -> list[str]:
    return site.check(model="./nowhere")


@kind("'model.bin'", "not a folder")
def model_is_a_file(site: Site) -> list[str]:
    return site.check(model=site.write("model.bin", "x"))


@kind("'model'", "config.json")
def model_folder_without_config(site: Site) -> list[str]:
    (site.folder / "model").mkdir()
    return site.check(model="model")


@kind("config", "model/config.json", "JSON")
def model_broken_config(site: Site) -> list[str]:
    (site.model() / "config.json").write_text('{"model_type": "llama",')
    return site.check(model="model")


@kind("'model'", "lama")
def model_unknown_type(site: Site) -> list[str]:
    (site.model() / "config.json").write_text('{"model_type": "lama"}')
    return site.check(model="model")


@kind("no-such-owner/no-such-model", "cache")
def model_out_of_reach(site: Site) -> list[str]:
    return site.check(model="no-such-owner/no-such-model")


@kind("'model'", "tokenizer.json")
def model_without_tokenizer(site: Site) -> list[str]:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (site.model(file).parent / "model").mkdir(exist_ok=True)
        shutil.rmtree(site.folder / file)
    shutil.copy(site.tiny / "config.json", site.folder / "model")
    shutil.copy(site.tiny / "model.safetensors", site.folder / "model")
    return site.check(model="model")


@kind("'model'", "knows 285 tokens", "embeds only 280")
def model_smaller_than_tokenizer(site: Site) -> list[str]:
    file = site.model() / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "vocab_size": 280}))
    return site.check(model="model")


@kind("'model'", "end-of-sequence", "eos_token")
def model_without_end(site: Site) -> list[str]:
    file = site.model() / "tokenizer_config.json"
    found = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in found.items() if name != "eos_token"}))
    return site.check(model="model")


@kind("'model'", "not fully covered")
def model_corrupt_weights(site: Site) -> list[str]:
    file = site.model() / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    return site.check(model="model")


@kind("model.safetensors", "model")
def model_without_weights(site: Site) -> list[str]:
    (site.model() / "model.safetensors").unlink()
    return site.check(model="model")


@kind("'model'", "(32, 64) instead of (32, 96)")
def model_weights_of_another_shape(site: Site) -> list[str]:
    file = site.model() / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "intermediate_size": 96}))
    return site.check(model="model")


@kind("'model'", "9 weights", "layers.1", "missing")
def model_weights_missing_some(site: Site) -> list[str]:
    file = site.model() / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_hidden_layers": 2, "layer_types": None}))
    return site.check(model="model")


@kind("adapter/adapter_config.json", "line 1 column 2")
def model_adapter_broken(site: Site) -> list[str]:
    return site.check(model=Path(site.write("adapter/adapter_config.json", "{broken")).parent)


@kind("adapter/adapter_config.json", "base_model_name_or_path")
def model_adapter_not_an_object(site: Site) -> list[str]:
    return site.check(model=Path(site.write("adapter/adapter_config.json", "[]")).parent)


@kind("adapter/adapter_config.json", "base_model_name_or_path")
def model_adapter_without_base(site: Site) -> list[str]:
    return site.check(model=Path(site.write("adapter/adapter_config.json", '{"peft_type": "LORA"}')).parent)


@kind("'/no/such/model'", "not a folder")
def model_adapter_with_missing_base(site: Site) -> list[str]:
    content = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "/no/such/model"})
    site.write("adapter/adapter_model.safetensors", b"")
    return site.check(model=Path(site.write("adapter/adapter_config.json", content)).parent)


@kind("'adapter'", "adapter_model.safetensors")
def model_adapter_without_weights(site: Site) -> list[str]:
    content = json.dumps({"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(site.tiny)})
    return site.check(model=Path(site.write("adapter/adapter_config.json", content)).parent)


@kind("adapter/adapter_config.json", "'LORAX'")
def model_adapter_of_unknown_type(site: Site) -> list[str]:
    content = json.dumps({"peft_type": "LORAX", "base_model_name_or_path": str(site.tiny)})
    return site.check(model=Path(site.write("adapter/adapter_config.json", content)).parent)


@kind("'adapter'", "a complete adapter")
def model_adapter_truncated(site: Site) -> list[str]:
    content = json.dumps({"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(site.tiny)})
    folder = Path(site.write("adapter/adapter_config.json", content)).parent
    site.write("adapter/adapter_model.safetensors", (site.tiny / "model.safetensors").read_bytes()[:999])
    return site.check(model=folder)


@kind("'bert'", "does not write text", "Llama")
def model_that_only_encodes(site: Site) -> list[str]:
    folder = site.model()
    config = BertConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    (folder / "model.safetensors").unlink()
    (folder / "generation_config.json").unlink()
    BertModel(config).save_pretrained(folder)
    return site.check(model="model")


@kind("'vit'", "does not write text")
def model_of_images(site: Site) -> list[str]:
    (site.model() / "config.json").write_text('{"model_type": "vit"}')
    return site.check(model="model")


@kind("backbone", "empty")
def model_empty_name(site: Site) -> list[str]:
    return site.check(model="")


@kind("model: missing: backbone")
def model_not_named(site: Site) -> list[str]:
    return ["check", *ANIT, "--data.train", site.rows()]


@kind("'builtin:tinny'", "'builtin:tiny'")
def model_builtin_misspelt(site: Site) -> list[str]:
    return site.check(model="builtin:tinny")


# --------------------------------------------------------------------------------------------- checkpoints


def resumed(site: Site, path: str, *flags: str) -> list[str]:
    return site.command("fit", "--ckpt_path", path, "--trainer.max_steps", "1", "--trainer.accelerator", "cpu", *flags)


@kind("ckpt_path: nowhere.ckpt", "not a file", "robustlm fit")
def checkpoint_missing(site: Site) -> list[str]:
    return resumed(site, "nowhere.ckpt")


@kind("ckpt_path: run", "holds no last.ckpt")
def checkpoint_is_a_folder(site: Site) -> list[str]:
    (site.folder / "run").mkdir()
    return resumed(site, "run")


@kind("ckpt_path: x.ckpt", "empty")
def checkpoint_empty(site: Site) -> list[str]:
    return resumed(site, site.write("x.ckpt", ""))


@kind("ckpt_path: x.ckpt", "damaged")
def checkpoint_truncated(site: Site) -> list[str]:
    file = site.folder / site.checkpoint()
    file.write_bytes(file.read_bytes()[:-300])
    return resumed(site, "x.ckpt")


class Exploit:
    """Runs when unpickled by a program that trusts pickles."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


@kind("ckpt_path: x.ckpt", "not loaded")
def checkpoint_that_runs_code(site: Site) -> list[str]:
    return resumed(site, site.write("x.ckpt", pickle.dumps({"state_dict": Exploit()})))


@kind("ckpt_path: x.ckpt", "not loaded")
def checkpoint_that_runs_code_in_a_zip(site: Site) -> list[str]:
    torch.save({"state_dict": Exploit()}, site.folder / "x.ckpt")
    return resumed(site, "x.ckpt")


@kind("ckpt_path: x.ckpt", "state_dict")
def checkpoint_that_is_none(site: Site) -> list[str]:
    torch.save([1, 2, 3], site.folder / "x.ckpt")
    return resumed(site, "x.ckpt")


@kind("ckpt_path: x.ckpt", "state_dict")
def checkpoint_of_bare_weights(site: Site) -> list[str]:
    torch.save({"weight": torch.zeros(2)}, site.folder / "x.ckpt")
    return resumed(site, "x.ckpt")


@kind("ckpt_path: x.ckpt", "'robustlm'")
def checkpoint_of_another_program(site: Site) -> list[str]:
    return resumed(site, site.checkpoint(robustlm=None))


@kind("ckpt_path: x.ckpt", "'robustlm'")
def checkpoint_without_settings(site: Site) -> list[str]:
    return resumed(site, site.checkpoint(robustlm=None, hyper_parameters=None))


@kind("another backbone or tuning", "unknown weights (1)", "other.weight")
def checkpoint_of_another_model(site: Site) -> list[str]:
    state = {"backbone.model.base_model.model.other.weight": torch.zeros(2, 2)}
    return resumed(site, site.checkpoint(state_dict=state))


@kind("another backbone or tuning", "missing trained weights (12)")
def checkpoint_of_another_tuning(site: Site) -> list[str]:
    return resumed(site, site.checkpoint(), "--model.tuning", "FullTuning")


@kind("(4, 32) instead of (16, 32)")
def checkpoint_of_another_rank(site: Site) -> list[str]:
    name = "backbone.model.base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    return resumed(site, site.checkpoint(state_dict={name: torch.zeros(4, 32)}))


@kind("'no_such_argument'", "ANIT")
def checkpoint_with_unknown_settings(site: Site) -> list[str]:
    return resumed(site, site.checkpoint(settings={"no_such_argument": 1}))


@kind("ckpt_path: x.ckpt", "another.package.Module", "--model")
def checkpoint_of_unknown_class(site: Site) -> list[str]:
    return resumed(site, site.checkpoint(settings={"_class_path": "another.package.Module"}))


@kind('ckpt_path="best"', "not configured")
def checkpoint_best_without_one(site: Site) -> list[str]:
    return site.command("test", "--ckpt_path", "best", "--data.test", site.rows(name="test.jsonl"))


@kind('ckpt_path="best"', "not configured")
def checkpoint_best_without_one_fit(site: Site) -> list[str]:
    return resumed(site, "best")


# --------------------------------------------------------------------------------------------------- flags


@kind("'--trainr.max_epochs'", "did you mean '--trainer.max_epochs'")
def flag_unknown(site: Site) -> list[str]:
    return site.check("--trainr.max_epochs", "1")


@kind("'--trainer.max_epoch'", "did you mean '--trainer.max_epochs'")
def flag_near_miss(site: Site) -> list[str]:
    return site.check("--trainer.max_epoch", "1")


@kind("model: ANIT has no argument 'adversery'", "did you mean 'adversary'")
def flag_near_miss_in_model(site: Site) -> list[str]:
    return site.check("--model.adversery", "PGD")


@kind("data: NoisyInstructionDataModule has no argument 'trian'", "did you mean 'train'")
def flag_near_miss_in_data(site: Site) -> list[str]:
    return site.check("--data.trian", "rows.jsonl")


@kind("model.adversary: PGD has no argument 'step'", "did you mean 'steps'")
def flag_near_miss_in_class(site: Site) -> list[str]:
    return site.check("--model.adversary", "PGD", "--model.adversary.step", "1")


@kind("FGM has no argument 'steps'", "epsilon, norm, unit")
def flag_of_another_class(site: Site) -> list[str]:
    return site.check("--model.adversary", "FGM", "--model.adversary.steps", "3")


@kind("'train' is not a command", "fit, validate, check", "noise")
def flag_unknown_command(site: Site) -> list[str]:
    return ["train", "--model", "ANIT"]


@kind("usage: robustlm COMMAND", "fit ", "noise ")
def flag_no_command(site: Site) -> list[str]:
    return []


@kind("missing: --data, --model", "--help")
def flag_neither_model_nor_data(site: Site) -> list[str]:
    return ["check"]


@kind("'--model' is not a command", "fit, validate")
def flag_before_command(site: Site) -> list[str]:
    return ["--model", "ANIT", "fit"]


@kind("trainer.max_epochs", "an integer", "'many'")
def flag_wrong_type(site: Site) -> list[str]:
    return site.check("--trainer.max_epochs", "many")


@kind("model.max_new_tokens", "an integer", "'few'")
def flag_wrong_type_in_model(site: Site) -> list[str]:
    return site.check("--model.max_new_tokens", "few")


@kind("model.adversary.epsilon", "a number", "'big'")
def flag_wrong_type_in_class(site: Site) -> list[str]:
    return site.check("--model.adversary", "PGD", "--model.adversary.epsilon", "big")


@kind("data.instructions", "'short'", "'concise'")
def flag_wrong_choice(site: Site) -> list[str]:
    return site.check("--data.instructions", "short")


@kind("--ckpt_path", "expected one argument")
def flag_without_value(site: Site) -> list[str]:
    return site.command("fit", "--ckpt_path")


@kind("--config", "expected one argument")
def flag_without_config(site: Site) -> list[str]:
    return ["fit", "-c"]


@kind("'rows.jsonl'", "unknown argument")
def flag_stray_word(site: Site) -> list[str]:
    return site.check("rows.jsonl")


@kind("torch_xla")
def flag_no_such_device(site: Site) -> list[str]:
    return site.command("fit", "--trainer.accelerator", "tpu")


@kind("accelerator='quantum'", "cpu")
def flag_unknown_accelerator(site: Site) -> list[str]:
    return site.command("fit", "--trainer.accelerator", "quantum")


@kind("trainer.precision", "'12'", "'bf16-mixed'")
def flag_unknown_precision(site: Site) -> list[str]:
    return site.command("fit", "--trainer.precision", "12")


@kind("trainer.default_root_dir", "taken", "is a file")
def flag_root_is_a_file(site: Site) -> list[str]:
    return site.command("fit", "--trainer.default_root_dir", site.write("taken", ""), "--trainer.max_steps", "1")


@kind("checkpoint.monitor", "'val/los'", "val/loss")
def flag_monitor_misspelt(site: Site) -> list[str]:
    rows = site.rows(name="validation.jsonl")
    return site.command("fit", "--data.validation", rows, "--checkpoint.monitor", "val/los", "--trainer.max_steps", "1")


@kind("checkpoint.monitor", "'val/los'", "data.validation")
def flag_monitor_without_validation(site: Site) -> list[str]:
    return site.command("fit", "--checkpoint.monitor", "val/los", "--trainer.max_steps", "1")


# ----------------------------------------------------------------------------------------------- the small commands


@kind("nowhere.jsonl", "no such file")
def noise_missing_input(site: Site) -> list[str]:
    return ["noise", "nowhere.jsonl", "out.jsonl"]


@kind("missing: input, output", "robustlm noise --help")
def noise_no_arguments(site: Site) -> list[str]:
    return ["noise"]


@kind("'--omga'", "did you mean '--omega'")
def noise_unknown_flag(site: Site) -> list[str]:
    return ["noise", site.rows(), "out.jsonl", "--omga", "0.2"]


@kind("nowhere/out.jsonl", "no folder")
def noise_into_missing_folder(site: Site) -> list[str]:
    return ["noise", site.rows(), "nowhere/out.jsonl"]


@kind("out.jsonl", "found a folder")
def noise_into_a_folder(site: Site) -> list[str]:
    (site.folder / "out.jsonl").mkdir()
    return ["noise", site.rows(), "out.jsonl"]


@kind("/proc/out.jsonl", "cannot be written")
def noise_into_unwritable_folder(site: Site) -> list[str]:
    return ["noise", site.rows(), "/proc/out.jsonl"]


@kind("out.txt", "unknown kind of file", ".jsonl")
def noise_unknown_ending(site: Site) -> list[str]:
    return ["noise", site.rows(), "out.txt"]


@kind("noise.omega", "from 0 to 1", "2.0")
def noise_omega_two(site: Site) -> list[str]:
    return ["noise", site.rows(), "out.jsonl", "--omega", "2"]


@kind("omega", "a number", "'much'")
def noise_omega_no_number(site: Site) -> list[str]:
    return ["noise", site.rows(), "out.jsonl", "--omega", "much"]


@kind("negatives", "found 0", "at least 1")
def pairs_without_negatives(site: Site) -> list[str]:
    return ["pairs", site.rows(), "out.jsonl", "--negatives", "0"]


@kind("1 of 1 rows have no second phrasing", "--bank", "--paraphrases")
def pairs_of_single_phrasings(site: Site) -> list[str]:
    return ["pairs", site.write("one.jsonl", json.dumps(ROW)), "out.jsonl"]


@kind("one.json", "no bank 'rte'", "expected one of cola")
def pairs_unknown_bank(site: Site) -> list[str]:
    site.write("one.json", '{"cola": []}')
    return ["pairs", site.rows(), "out.jsonl", "--bank", "one.json#rte"]


@kind("noise.phi", "from 0 to 1", "-1.0")
def noise_negative_phi(site: Site) -> list[str]:
    return ["noise", site.rows(), "out.jsonl", "--phi", "-1"]


@kind("'tipos'", "random_typos")
def noise_unknown_kind(site: Site) -> list[str]:
    return ["noise", site.rows(), "out.jsonl", "--kind", "tipos"]


@kind("distortion: 'RBF'", "--help")
def noise_unknown_distortion(site: Site) -> list[str]:
    return ["noise", site.rows(), "out.jsonl", "--distortion", "RBF"]


@kind("distortion: LME", "expected --backbone")
def noise_by_a_model_that_is_not_there(site: Site) -> list[str]:
    return ["noise", site.rows(), "out.jsonl", "--distortion", "LME"]


@kind("rows.jsonl:1", "no instruction", "bank")
def noise_without_instructions(site: Site) -> list[str]:
    return ["noise", site.rows({"tokens": ["Anna"], "ner_tags": ["B-PER"]}), "out.jsonl"]


@kind("rows.jsonl:2", "broken JSON")
def noise_broken_row(site: Site) -> list[str]:
    return ["noise", site.write("rows.jsonl", json.dumps(ROW) + "\n{broken\n"), "out.jsonl"]


@kind("out.csv", "row 1", "'tags'", ".jsonl")
def noise_lists_into_csv(site: Site) -> list[str]:
    return ["noise", site.rows({**ROW, "tags": ["a"]}), "out.csv"]


@kind("nowhere.jsonl", "no such file")
def paraphrase_missing_input(site: Site) -> list[str]:
    return ["paraphrase", "nowhere.jsonl", "out.jsonl"]


@kind("out.jsonl", "found a file", "--overwrite")
def paraphrase_over_a_file(site: Site) -> list[str]:
    return ["paraphrase", site.rows(), site.rows(name="out.jsonl")]


@kind("out.csv", "another ending", ".jsonl")
def paraphrase_into_csv(site: Site) -> list[str]:
    return ["paraphrase", site.rows(), "out.csv"]


@kind("/proc/out.jsonl", "cannot be written")
def paraphrase_into_unwritable_folder(site: Site) -> list[str]:
    return ["paraphrase", site.rows(), "/proc/out.jsonl"]


@kind("--prompt", "{instruction}", "Again!")
def paraphrase_prompt_without_instruction(site: Site) -> list[str]:
    return ["paraphrase", site.rows(), "out.jsonl", "--prompt", "Again!"]


@kind("--count", "1 or more", "0")
def paraphrase_count_zero(site: Site) -> list[str]:
    return ["paraphrase", site.rows(), "out.jsonl", "--count", "0"]


@kind("rows.jsonl:1", "no instruction", "bank")
def paraphrase_without_instructions(site: Site) -> list[str]:
    return ["paraphrase", site.rows({"tokens": ["Anna"], "ner_tags": ["B-PER"]}), "out.jsonl"]


@kind("rows.jsonl", "no rows")
def init_empty_rows(site: Site) -> list[str]:
    return ["init", "new", site.write("rows.jsonl", "")]


@kind("missing: rows")
def init_rows_not_given(site: Site) -> list[str]:
    return ["init", "new"]


@kind("nowhere.jsonl", "no such file")
def init_missing_rows(site: Site) -> list[str]:
    return ["init", "new", "nowhere.jsonl"]


@kind("vocab_size", "100", "≥ 260")
def init_small_vocabulary(site: Site) -> list[str]:
    return ["init", "new", site.rows(), "--vocab_size", "100"]


@kind("hidden_size", "30", "8")
def init_heads_do_not_divide(site: Site) -> list[str]:
    return ["init", "new", site.rows(), "--hidden_size", "30", "--vocab_size", "300"]


@kind("heads", "0", "≥ 1")
def init_no_heads(site: Site) -> list[str]:
    return ["init", "new", site.rows(), "--heads", "0", "--vocab_size", "300"]


@kind("layers", "0", "≥ 1")
def init_no_layers(site: Site) -> list[str]:
    return ["init", "new", site.rows(), "--layers", "0", "--vocab_size", "300"]


@kind("new already holds a model", "empty folder")
def init_folder_with_a_model(site: Site) -> list[str]:
    site.model("new")
    return ["init", "new", site.rows(), "--vocab_size", "300"]


@kind("new already holds other files", "empty folder")
def init_folder_with_something_else(site: Site) -> list[str]:
    site.write("new/notes.txt", "mine")
    return ["init", "new", site.rows(), "--vocab_size", "300"]


@kind("new is a file", "empty folder")
def init_folder_is_a_file(site: Site) -> list[str]:
    return ["init", site.write("new", "x"), site.rows(), "--vocab_size", "300"]


# ------------------------------------------------------------------------------------------------------ the tests


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, with the content of files."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def site(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return Site(tmp_path, tiny)


@pytest.mark.parametrize("name", KINDS)
def test_wrong_input_is_answered_clearly(name: str, site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    args = KINDS[name].make(site)
    before = tree(site.folder)
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(args)
    message = capfd.readouterr().err
    assert ended.value.code == 2
    for words in KINDS[name].says:
        assert words in message
    assert "Traceback" not in message
    assert "Namespace(" not in message
    assert message.count("\n") < (MOST_LINES if args else 40)  # without a command, the overview is shown
    assert len(message) < MOST_CHARACTERS
    assert tree(site.folder) == before


def test_there_are_enough_kinds() -> None:
    assert len(KINDS) >= 50
    assert all(kind.says for kind in KINDS.values())


def test_a_length_beyond_the_model_gives_way(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    main(site.check("--data.max_length", "100000"))
    assert "100000 is more than the 1024 positions of the model" in caplog.text


@pytest.mark.parametrize("kind_of_end", [KeyboardInterrupt, ValueError("disk on fire")])
def test_noise_that_is_interrupted_leaves_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, kind_of_end: BaseException
) -> None:
    rows = site.rows(*({**ROW, "id": str(n)} for n in range(10)))
    before = tree(site.folder)
    written = RowWriter.write

    def stop(writer: RowWriter, data: Any) -> None:
        if writer.written == 5:
            raise kind_of_end
        written(writer, data)

    monkeypatch.setattr(RowWriter, "write", stop)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        main(["noise", rows, rows])
    assert tree(site.folder) == before


def test_noise_into_its_own_input_replaces_it_whole(site: Site) -> None:
    rows = site.rows(*({**ROW, "id": str(n)} for n in range(3)))
    main(["noise", rows, rows])
    found = [json.loads(line) for line in (site.folder / rows).read_text().splitlines()]
    assert [row["id"] for row in found] == ["0", "1", "2"]
    assert all(row["variant"] != row["instruction"] for row in found)
    assert os.listdir(site.folder) == [rows]


def test_a_run_that_began_keeps_its_log(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("the loss exploded")

    monkeypatch.setattr(InstructionTuning, "training_step", fail)
    with pytest.raises(SystemExit):
        main(site.command("fit", "--trainer.max_steps", "1", "--trainer.accelerator", "cpu"))
    assert (site.folder / "runs" / "version_0" / "config.yaml").is_file()
    assert not list(site.folder.rglob("*.ckpt"))
    assert not list(site.folder.rglob("adapter*"))


def test_a_bug_keeps_its_traceback(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: Any) -> None:
        raise AttributeError("a bug")

    monkeypatch.setattr("robustlm.cli.check.check", bug)
    with pytest.raises(AttributeError, match="a bug"):
        main(site.check())


# ------------------------------------------------------------------------------------------- the command line


def printed_config(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*args, "--print_config"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_command(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([flag])
    shown = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n  {command} " in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    usage = capsys.readouterr().out.split("\n\n")[0]
    assert usage.startswith(f"usage: robustlm {command}")
    assert len(usage) < 600


@pytest.mark.parametrize("model", [InstructionTuning, *InstructionTuning.__subclasses__()])
@pytest.mark.parametrize("data", [InstructionDataModule, *InstructionDataModule.__subclasses__()])
def test_a_printed_config_is_a_config(model: type, data: type, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    def path(cls: type) -> str:
        return f"{cls.__module__}.{cls.__qualname__}"

    args = ["fit", "--model", path(model), "--model.backbone", "x", "--data", path(data)]
    rows = ["--data.train", '[{"path": "a.jsonl", "limit": 3}, "b.jsonl"]', "--data.template", "Do: {instruction}"]
    text = ["--data.train", '["a.txt", "b.txt.gz"]']  # without prompts
    first = printed_config([*args, *(text if data is TextDataModule else rows)], capsys)
    site.config(first)
    assert printed_config(["fit", "-c", "run.yaml"], capsys) == first


def test_flags_overrule_checkpoints_which_overrule_configs(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = site.checkpoint(settings={"max_new_tokens": 7, "adversarial_weight": 0.5, "perturb": "instruction"})
    init_args = {"backbone": str(site.tiny), "max_new_tokens": 9, "adversarial_weight": 0.25}
    site.config(
        {"model": {"class_path": "ANIT", "init_args": init_args}, "data": {"class_path": "NoisyInstructionDataModule"}}
    )
    args = ["test", "-c", "run.yaml", "--ckpt_path", checkpoint, "--model.adversarial_weight", "2"]
    with pytest.raises(SystemExit):
        main([*args, "--data.test", "nowhere.jsonl"])
    said = capsys.readouterr().out
    flags, _, configs = said.partition("overrule config files")
    assert "model.adversarial_weight: 2.0 (checkpoint: 0.5)" in flags
    assert "model.max_new_tokens: 7 (config file: 9)" in configs
    assert "perturb" not in said
    used = yaml.safe_load(printed_config(args, capsys))["model"]["init_args"]
    assert (used["adversarial_weight"], used["max_new_tokens"], used["perturb"]) == (2.0, 7, "instruction")


@pytest.mark.parametrize(
    "template", ["Answer: {context} {instruction}", "Task: {instruction}\nInput: {context}\nAnswer: ", "{instruction}"]
)
def test_a_template_is_text_by_flag_and_by_config(
    template: str, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    by_flag = printed_config(site.check("--data.template", template), capsys)
    assert yaml.safe_load(by_flag)["data"]["init_args"]["template"] == template
    site.config({"data": {"class_path": "NoisyInstructionDataModule", "init_args": {"template": template}}})
    by_config = printed_config(["check", "--model", "ANIT", "--model.backbone", "x", "-c", "run.yaml"], capsys)
    assert yaml.safe_load(by_config)["data"]["init_args"]["template"] == template


def test_rows_by_name_are_not_read_as_settings(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    main(site.check(train=site.write("rows.csv", "instruction,output\nSay it.,it\nSay this.,this\n")))
    assert "2 rows of rows" in capsys.readouterr().out


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "robustlm"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: robustlm COMMAND")
