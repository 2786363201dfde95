"""Wrong input of every kind: a short message that says what, where and what instead, and nothing half-written."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, BertModel, PreTrainedTokenizerFast

from robustlm.cli import main
from robustlm.data.scratch import build

ROW = {"instruction": "Say the opposite of the word.", "input": "hot", "output": "cold"}
ANIT = ("--model", "ANIT", "--data", "NLUDataModule")
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
    leaves: bool = False


KINDS: dict[str, Kind] = {}


def kind(*says: str, leaves: bool = False) -> Callable[[Make], Make]:
    """Decorator: a function that sets a site up and returns the arguments is a kind of wrong input."""

    def add(make: Make) -> Make:
        assert make.__name__ not in KINDS
        KINDS[make.__name__] = Kind(make, says, leaves)
        return make

    return add


# --------------------------------------------------------------------------------------------------- rows


@kind()
def rows_missing_file(site: Site) -> list[str]:
    return site.check(train="nowhere.jsonl")


@kind()
def rows_empty_file(site: Site) -> list[str]:
    return site.check(train=site.write("rows.jsonl", ""))


@kind()
def rows_folder_without_split(site: Site) -> list[str]:
    site.rows(name="data/test.jsonl")
    return site.check(train="data")


@kind()
def rows_folder_with_two_files_for_a_split(site: Site) -> list[str]:
    site.rows(name="data/train.jsonl")
    site.rows(name="data/train.json")
    return site.check(train="data")


@kind()
def rows_unknown_ending(site: Site) -> list[str]:
    return site.check(train=site.write("rows.txt", "hello\n"))


@kind()
def rows_not_utf8(site: Site) -> list[str]:
    good = json.dumps(ROW).encode()
    return site.check(train=site.write("rows.jsonl", good + b"\n" + good.replace(b"hot", b"h\xf6t") + b"\n"))


@kind()
def rows_truncated_gzip(site: Site) -> list[str]:
    whole = gzip.compress(b"".join(json.dumps({**ROW, "id": str(n)}).encode() + b"\n" for n in range(999)))
    return site.check(train=site.write("rows.jsonl.gz", whole[:-200]))


@kind()
def rows_not_gzip(site: Site) -> list[str]:
    return site.check(train=site.write("rows.jsonl.gz", json.dumps(ROW)))


@kind()
def rows_broken_json(site: Site) -> list[str]:
    good = json.dumps(ROW)
    return site.check(train=site.write("rows.jsonl", f"{good}\n{good}\n{good[:-9]}\n"))


@kind()
def rows_lists_for_objects(site: Site) -> list[str]:
    return site.check(train=site.write("rows.jsonl", f"{json.dumps(ROW)}\n[1, 2]\n"))


@kind()
def rows_json_object_for_list(site: Site) -> list[str]:
    return site.check(train=site.write("rows.json", json.dumps(ROW)))


@kind()
def rows_lines_named_json(site: Site) -> list[str]:
    return site.check(train=site.write("rows.json", f"{json.dumps(ROW)}\n{json.dumps(ROW)}\n"))


@kind()
def rows_unknown_keys(site: Site) -> list[str]:
    return site.check(train=site.rows(ROW, {"ask": "Say it.", "reply": "it"}))


@kind()
def rows_ambiguous_keys(site: Site) -> list[str]:
    return site.check(train=site.rows({**ROW, "messages": []}))


@kind()
def rows_wrong_type(site: Site) -> list[str]:
    return site.check(train=site.rows(ROW, {**ROW, "output": 7}))


@kind()
def rows_empty_instruction(site: Site) -> list[str]:
    return site.check(train=site.rows(ROW, {**ROW, "instruction": " "}))


@kind()
def rows_empty_target(site: Site) -> list[str]:
    return site.check(train=site.rows({**ROW, "output": ""}))


@kind()
def rows_label_not_text(site: Site) -> list[str]:
    return site.check(train=site.rows({"text": "Nice.", "label": 1}))


@kind()
def rows_tags_and_tokens_differ_in_number(site: Site) -> list[str]:
    return site.check(train=site.rows({"tokens": ["Anna", "left"], "ner_tags": ["B-PER"]}))


@kind()
def rows_tags_that_are_no_bio(site: Site) -> list[str]:
    return site.check(train=site.rows({"tokens": ["Anna", "left"], "ner_tags": ["PERSON", "O"]}))


@kind()
def rows_same_id(site: Site) -> list[str]:
    return site.check(train=site.rows({**ROW, "id": "a"}, {**ROW, "id": "a"}))


@kind()
def rows_chat_roles(site: Site) -> list[str]:
    said = [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Well?"}]
    return site.check(train=site.rows({"messages": said}))


@kind()
def rows_choices_without_target(site: Site) -> list[str]:
    return site.check(train=site.rows({"instruction": "Say.", "target": "maybe", "choices": ["yes", "no"]}))


@kind()
def rows_unknown_task(site: Site) -> list[str]:
    return site.check(train=site.rows({"instruction": "Say.", "target": "maybe", "task": "nerr"}))


@kind()
def rows_unknown_bank(site: Site) -> list[str]:
    return site.check(train=site.rows({"instruction": "", "target": "maybe", "bank": "nerr"}))


@kind()
def rows_too_long(site: Site) -> list[str]:
    return site.check("--data.max_length", "16", train=site.rows(ROW, {**ROW, "output": "cold " * 30}))


@kind()
def rows_ragged_csv(site: Site) -> list[str]:
    return site.check(train=site.write("rows.csv", "instruction,output\nSay it.,it\nSay, it,it\n"))


@kind()
def rows_csv_without_header(site: Site) -> list[str]:
    return site.check(train=site.write("rows.csv", "Say it.,it\nSay this.,this\n"))


@kind()
def rows_broken_parquet(site: Site) -> list[str]:
    return site.check(train=site.write("rows.parquet", b"PAR1 and then nothing"))


@kind()
def rows_unknown_split(site: Site) -> list[str]:
    return site.check("--data.train", '[{"path": "builtin:quickstart", "split": "dev"}]')


@kind()
def rows_unknown_format(site: Site) -> list[str]:
    site.rows()
    return site.check("--data.train", '[{"path": "rows.jsonl", "format": "alpacca"}]')


@kind()
def rows_split_of_a_file(site: Site) -> list[str]:
    site.rows()
    return site.check("--data.train", '[{"path": "rows.jsonl", "split": "dev"}]')


@kind()
def rows_unknown_key_of_a_source(site: Site) -> list[str]:
    site.rows()
    return site.check("--data.train", '[{"path": "rows.jsonl", "formt": "alpaca"}]')


@kind()
def rows_same_source_twice(site: Site) -> list[str]:
    site.rows()
    return site.check("--data.train", '["rows.jsonl", "rows.jsonl"]')


@kind()
def rows_limit_zero(site: Site) -> list[str]:
    site.rows()
    return site.check("--data.train", '[{"path": "rows.jsonl", "limit": 0}]')


@kind()
def rows_none_named(site: Site) -> list[str]:
    return ["check", *ANIT, "--model.backbone", str(site.tiny)]


@kind()
def rows_none_named_for_fit(site: Site) -> list[str]:
    return ["fit", *ANIT, "--model.backbone", str(site.tiny)]


@kind()
def rows_none_named_for_test(site: Site) -> list[str]:
    return site.command("test")


@kind()
def rows_hub_name_offline(site: Site) -> list[str]:
    return site.check(train="no-such-owner/no-such-rows")


@kind()
def rows_builtin_misspelt(site: Site) -> list[str]:
    return site.check(train="builtin:quikstart")


# ------------------------------------------------------------------------------------------------- configs


@kind()
def config_missing(site: Site) -> list[str]:
    return ["check", "-c", "nowhere.yaml"]


@kind()
def config_missing_name(site: Site) -> list[str]:
    return ["check", "-c", "annit"]


@kind()
def config_is_a_folder(site: Site) -> list[str]:
    (site.folder / "conf").mkdir()
    return ["check", "-c", "conf"]


@kind()
def config_broken_yaml(site: Site) -> list[str]:
    return site.check("-c", site.config("trainer:\n  max_epochs: [1\nmodel: x\n"))


@kind()
def config_is_a_list(site: Site) -> list[str]:
    return site.check("-c", site.config("- fit\n- me\n"))


@kind()
def config_not_utf8(site: Site) -> list[str]:
    site.write("run.yaml", "seed_everything: 0 # größer".encode("latin-1"))
    return site.check("-c", "run.yaml")


@kind()
def config_unknown_key(site: Site) -> list[str]:
    return site.check("-c", site.config({"trainer": {"max_epoch": 2}}))


@kind()
def config_unknown_top_key(site: Site) -> list[str]:
    return site.check("-c", site.config({"trainr": {"max_epochs": 2}}))


@kind()
def config_unknown_model_key(site: Site) -> list[str]:
    model = {"class_path": "ANIT", "init_args": {"backbone": str(site.tiny), "adversery": None}}
    return ["check", "-c", site.config({"model": model}), "--data", "NLUDataModule", "--data.train", site.rows()]


@kind()
def config_unknown_nested_key(site: Site) -> list[str]:
    model = {
        "class_path": "ANIT",
        "init_args": {"adversary": {"class_path": "NRM", "init_args": {"epsilom": 1.0}}, "backbone": "x"},
    }
    return ["check", "-c", site.config({"model": model}), "--data", "NLUDataModule", "--data.train", site.rows()]


@kind()
def config_wrong_type(site: Site) -> list[str]:
    return site.check("-c", site.config({"trainer": {"max_epochs": "many"}}))


@kind()
def config_wrong_nested_type(site: Site) -> list[str]:
    data = {"class_path": "NLUDataModule", "init_args": {"noise": {"omega": "much"}}}
    return ["check", "-c", site.config({"data": data}), "--model", "ANIT", "--model.backbone", str(site.tiny)]


@kind()
def config_unknown_class(site: Site) -> list[str]:
    return site.check("--model", "ANNIT")


@kind()
def config_unknown_data_class(site: Site) -> list[str]:
    return site.check("--data", "NLUDatamodule")


@kind()
def config_unknown_adversary(site: Site) -> list[str]:
    return site.check("--model.adversary", "NRMM")


@kind()
def config_class_of_another_kind(site: Site) -> list[str]:
    return site.check("--model", "robustlm.adversaries.PGD")


@kind()
def config_adversary_of_another_kind(site: Site) -> list[str]:
    return site.check("--model.adversary", "robustlm.tuning.LoRA")


@kind()
def config_class_that_is_abstract(site: Site) -> list[str]:
    return site.check("--model.tuning", "Tuning")


@kind()
def config_negative_epsilon(site: Site) -> list[str]:
    return site.check("--model.adversary", "NRM", "--model.adversary.epsilon", "-1")


@kind()
def config_omega_two(site: Site) -> list[str]:
    return site.check("--data.noise.omega", "2")


@kind()
def config_negative_phi(site: Site) -> list[str]:
    return site.check("--data.noise.phi", "-0.5")


@kind()
def config_negative_batch_size(site: Site) -> list[str]:
    return site.check("--data.batch_size", "-1")


@kind()
def config_negative_eval_batch_size(site: Site) -> list[str]:
    return site.check("--data.eval_batch_size", "0")


@kind()
def config_negative_workers(site: Site) -> list[str]:
    return site.check("--data.num_workers", "-1")


@kind()
def config_max_length_zero(site: Site) -> list[str]:
    return site.check("--data.max_length", "0")


@kind()
def config_max_length_beyond_the_model(site: Site) -> list[str]:
    return site.check("--data.max_length", "100000")


@kind()
def config_negative_variants(site: Site) -> list[str]:
    return site.check("--data.variants", "0")


@kind()
def config_negative_learning_rate(site: Site) -> list[str]:
    return site.check("--model.optimizer", "AdamW", "--model.optimizer.lr", "-0.1")


@kind()
def config_negative_muon_rate(site: Site) -> list[str]:
    return site.check("--model.optimizer", "Muon", "--model.optimizer.adamw_lr", "-0.1")


@kind()
def config_beta_of_two(site: Site) -> list[str]:
    return site.check("--model.optimizer", "AdamW", "--model.optimizer.betas", "[0.9, 2]")


@kind()
def config_negative_warmup(site: Site) -> list[str]:
    return site.check("--model.schedule.warmup", "-1")


@kind()
def config_unknown_decay(site: Site) -> list[str]:
    return site.check("--model.schedule.decay", "cosin")


@kind()
def config_rank_zero(site: Site) -> list[str]:
    return site.check("--model.tuning", "LoRA", "--model.tuning.r", "0")


@kind()
def config_negative_alpha(site: Site) -> list[str]:
    return site.check("--model.tuning", "LoRA", "--model.tuning.alpha", "0")


@kind()
def config_dropout_one(site: Site) -> list[str]:
    return site.check("--model.tuning", "LoRA", "--model.tuning.dropout", "1")


@kind()
def config_target_modules_not_there(site: Site) -> list[str]:
    return site.check("--model.tuning", "LoRA", "--model.tuning.target_modules", '["qq_proj"]')


@kind()
def config_target_modules_bad_regex(site: Site) -> list[str]:
    return site.check("--model.tuning", "LoRA", "--model.tuning.target_modules", "(q_proj")


@kind()
def config_prefix_of_nothing(site: Site) -> list[str]:
    return site.check("--model.tuning", "PrefixTuning", "--model.tuning.tokens", "0")


@kind()
def config_negative_weight(site: Site) -> list[str]:
    return site.check("--model.adversarial_weight", "-1")


@kind()
def config_max_new_tokens_zero(site: Site) -> list[str]:
    return site.check("--model.max_new_tokens", "0")


@kind()
def config_unknown_noise(site: Site) -> list[str]:
    return site.check("--data.noise.kind", "random_tiposs")


@kind()
def config_noise_weights_without_mixed(site: Site) -> list[str]:
    return site.check("--data.noise.kind", "opposite", "--data.noise.weights", '{"opposite": 1}')


@kind()
def config_noise_weights_unknown(site: Site) -> list[str]:
    return site.check("--data.noise.weights", '{"opposit": 1}')


@kind()
def config_unknown_condition(site: Site) -> list[str]:
    return site.check("--data.conditions", '["clean", "cleen"]')


@kind()
def config_condition_of_no_strength(site: Site) -> list[str]:
    return site.check("--data.conditions", '["opposite@lots"]')


@kind()
def config_condition_twice(site: Site) -> list[str]:
    return site.check("--data.conditions", '["clean", "clean"]')


@kind()
def config_no_condition(site: Site) -> list[str]:
    return site.check("--data.conditions", "[]")


@kind()
def config_template_without_instruction(site: Site) -> list[str]:
    return site.check("--data.template", "Answer: {context}")


@kind()
def config_template_unknown_field(site: Site) -> list[str]:
    return site.check("--data.template", "{instruction} {contxt}")


@kind()
def config_template_unclosed(site: Site) -> list[str]:
    return site.check("--data.template", "{instruction} {context")


@kind()
def config_template_misspelt(site: Site) -> list[str]:
    return site.check("--data.template", "alpacca")


@kind()
def config_chat_without_template(site: Site) -> list[str]:
    return site.check("--data.template", "chat")


@kind()
def config_unknown_bank(site: Site) -> list[str]:
    return site.check("--data.bank", "nerr")


@kind()
def config_missing_bank_file(site: Site) -> list[str]:
    return site.check("--data.bank", "nowhere.json")


@kind()
def config_broken_bank_file(site: Site) -> list[str]:
    return site.check("--data.bank", site.write("bank.json", '{"task": "x", "concise": ["Say it."]}'))


@kind()
def config_bank_without_seen(site: Site) -> list[str]:
    bank = {"task": "x", "concise": {"unseen": ["Say it."]}}
    return site.check("--data.bank", site.write("bank.json", json.dumps(bank)))


@kind()
def config_replays_missing(site: Site) -> list[str]:
    return site.check("--model.adversary", "FreeAT")


@kind()
def config_replays_of_one(site: Site) -> list[str]:
    return site.check("--model.adversary", "FreeAT", "--model.adversary.replays", "1")


@kind()
def config_norm_of_another_kind(site: Site) -> list[str]:
    return site.check("--model.adversary", "PGD", "--model.adversary.norm", "l2")


@kind()
def config_norm_against_beta(site: Site) -> list[str]:
    flags = ("--model.adversary.norm", "batch", "--model.adversary.scale_radius_by_beta", "true")
    return site.check("--model.adversary", "NRM", *flags)


@kind()
def config_target_gap_zero(site: Site) -> list[str]:
    return site.check("--model.adversary", "NRM", "--model.adversary.target_gap", "0")


@kind()
def config_prefix_with_checkpointing(site: Site) -> list[str]:
    return site.check("--model.tuning", "PrefixTuning", "--model.loading.gradient_checkpointing", "true")


@kind()
def config_four_bit_without_gpu(site: Site) -> list[str]:
    return site.check("--model.loading.four_bit", "true")


@kind()
def config_nothing_to_train(site: Site) -> list[str]:
    return site.command("fit", "--model.tuning", "null")


@kind()
def config_nothing_to_train_checked(site: Site) -> list[str]:
    return site.check("--model.tuning", "null")


@kind()
def config_template_unquoted(site: Site) -> list[str]:
    data = "data: {class_path: NLUDataModule, init_args: {template: {instruction: }}}"
    return ["check", "--model", "ANIT", "--model.backbone", str(site.tiny), "-c", site.config(data)]


@kind()
def config_unseen_without_bank(site: Site) -> list[str]:
    return site.check("--data.conditions", '["clean", "unseen"]', "--data.test", site.rows(name="test.jsonl"))


@kind()
def config_plain_data_for_anit(site: Site) -> list[str]:
    return site.check("--data", "InstructionDataModule")


@kind()
def config_rejected_in_missing_folder(site: Site) -> list[str]:
    return site.check("--data.on_bad_row", "skip", "--data.rejected", "nowhere/bad.jsonl", train=site.rows(ROW, {}))


# -------------------------------------------------------------------------------------------------- models


@kind()
def model_missing_folder(site: Site) -> list[str]:
    return site.check(model="./nowhere")


@kind()
def model_is_a_file(site: Site) -> list[str]:
    return site.check(model=site.write("model.bin", "x"))


@kind()
def model_folder_without_config(site: Site) -> list[str]:
    (site.folder / "model").mkdir()
    return site.check(model="model")


@kind()
def model_broken_config(site: Site) -> list[str]:
    (site.model() / "config.json").write_text('{"model_type": "llama",')
    return site.check(model="model")


@kind()
def model_unknown_type(site: Site) -> list[str]:
    (site.model() / "config.json").write_text('{"model_type": "lama"}')
    return site.check(model="model")


@kind()
def model_out_of_reach(site: Site) -> list[str]:
    return site.check(model="no-such-owner/no-such-model")


@kind()
def model_without_tokenizer(site: Site) -> list[str]:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (site.model(file).parent / "model").mkdir(exist_ok=True)
        shutil.rmtree(site.folder / file)
    shutil.copy(site.tiny / "config.json", site.folder / "model")
    shutil.copy(site.tiny / "model.safetensors", site.folder / "model")
    return site.check(model="model")


@kind()
def model_smaller_than_tokenizer(site: Site) -> list[str]:
    file = site.model() / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "vocab_size": 280}))
    return site.check(model="model")


@kind()
def model_without_end(site: Site) -> list[str]:
    file = site.model() / "tokenizer_config.json"
    found = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in found.items() if name != "eos_token"}))
    return site.check(model="model")


@kind()
def model_corrupt_weights(site: Site) -> list[str]:
    file = site.model() / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    return site.check(model="model")


@kind()
def model_without_weights(site: Site) -> list[str]:
    (site.model() / "model.safetensors").unlink()
    return site.check(model="model")


@kind()
def model_weights_of_another_shape(site: Site) -> list[str]:
    file = site.model() / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "intermediate_size": 96}))
    return site.check(model="model")


@kind()
def model_weights_missing_some(site: Site) -> list[str]:
    file = site.model() / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_hidden_layers": 2, "layer_types": None}))
    return site.check(model="model")


@kind()
def model_adapter_broken(site: Site) -> list[str]:
    return site.check(model=Path(site.write("adapter/adapter_config.json", "{broken")).parent)


@kind()
def model_adapter_not_an_object(site: Site) -> list[str]:
    return site.check(model=Path(site.write("adapter/adapter_config.json", "[]")).parent)


@kind()
def model_adapter_without_base(site: Site) -> list[str]:
    return site.check(model=Path(site.write("adapter/adapter_config.json", '{"peft_type": "LORA"}')).parent)


@kind()
def model_adapter_with_missing_base(site: Site) -> list[str]:
    content = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "/no/such/model"})
    return site.check(model=Path(site.write("adapter/adapter_config.json", content)).parent)


@kind()
def model_adapter_without_weights(site: Site) -> list[str]:
    content = json.dumps({"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(site.tiny)})
    return site.check(model=Path(site.write("adapter/adapter_config.json", content)).parent)


@kind()
def model_adapter_of_unknown_type(site: Site) -> list[str]:
    content = json.dumps({"peft_type": "LORAX", "base_model_name_or_path": str(site.tiny)})
    return site.check(model=Path(site.write("adapter/adapter_config.json", content)).parent)


@kind()
def model_adapter_truncated(site: Site) -> list[str]:
    content = json.dumps({"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(site.tiny)})
    folder = Path(site.write("adapter/adapter_config.json", content)).parent
    site.write("adapter/adapter_model.safetensors", (site.tiny / "model.safetensors").read_bytes()[:999])
    return site.check(model=folder)


@kind()
def model_that_only_encodes(site: Site) -> list[str]:
    folder = site.model()
    config = BertConfig(vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    (folder / "model.safetensors").unlink()
    (folder / "generation_config.json").unlink()
    BertModel(config).save_pretrained(folder)
    return site.check(model="model")


@kind()
def model_of_images(site: Site) -> list[str]:
    (site.model() / "config.json").write_text('{"model_type": "vit"}')
    return site.check(model="model")


@kind()
def model_empty_name(site: Site) -> list[str]:
    return site.check(model="")


@kind()
def model_not_named(site: Site) -> list[str]:
    return ["check", *ANIT, "--data.train", site.rows()]


@kind()
def model_builtin_misspelt(site: Site) -> list[str]:
    return site.check(model="builtin:tinny")


# --------------------------------------------------------------------------------------------- checkpoints


def resumed(site: Site, path: str, *flags: str) -> list[str]:
    return site.command("fit", "--ckpt_path", path, "--trainer.max_steps", "1", "--trainer.accelerator", "cpu", *flags)


@kind()
def checkpoint_missing(site: Site) -> list[str]:
    return resumed(site, "nowhere.ckpt")


@kind()
def checkpoint_is_a_folder(site: Site) -> list[str]:
    (site.folder / "run").mkdir()
    return resumed(site, "run")


@kind()
def checkpoint_empty(site: Site) -> list[str]:
    return resumed(site, site.write("x.ckpt", ""))


@kind()
def checkpoint_truncated(site: Site) -> list[str]:
    file = site.folder / site.checkpoint()
    file.write_bytes(file.read_bytes()[:-300])
    return resumed(site, "x.ckpt")


class Exploit:
    """Runs when unpickled by a program that trusts pickles."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


@kind()
def checkpoint_that_runs_code(site: Site) -> list[str]:
    return resumed(site, site.write("x.ckpt", pickle.dumps({"state_dict": Exploit()})))


@kind()
def checkpoint_that_runs_code_in_a_zip(site: Site) -> list[str]:
    torch.save({"state_dict": Exploit()}, site.folder / "x.ckpt")
    return resumed(site, "x.ckpt")


@kind()
def checkpoint_that_is_none(site: Site) -> list[str]:
    torch.save([1, 2, 3], site.folder / "x.ckpt")
    return resumed(site, "x.ckpt")


@kind()
def checkpoint_of_bare_weights(site: Site) -> list[str]:
    torch.save({"weight": torch.zeros(2)}, site.folder / "x.ckpt")
    return resumed(site, "x.ckpt")


@kind()
def checkpoint_of_another_program(site: Site) -> list[str]:
    return resumed(site, site.checkpoint(robustlm=None))


@kind()
def checkpoint_without_settings(site: Site) -> list[str]:
    return resumed(site, site.checkpoint(robustlm=None, hyper_parameters=None))


@kind()
def checkpoint_of_another_model(site: Site) -> list[str]:
    state = {"backbone.model.base_model.model.other.weight": torch.zeros(2, 2)}
    return resumed(site, site.checkpoint(state_dict=state))


@kind()
def checkpoint_of_another_tuning(site: Site) -> list[str]:
    return resumed(site, site.checkpoint(), "--model.tuning", "FullTuning")


@kind()
def checkpoint_of_another_rank(site: Site) -> list[str]:
    name = "backbone.model.base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    return resumed(site, site.checkpoint(state_dict={name: torch.zeros(4, 32)}))


@kind()
def checkpoint_with_unknown_settings(site: Site) -> list[str]:
    return resumed(site, site.checkpoint(settings={"no_such_argument": 1}))


@kind()
def checkpoint_of_unknown_class(site: Site) -> list[str]:
    return resumed(site, site.checkpoint(settings={"_class_path": "another.package.Module"}))


@kind()
def checkpoint_best_without_one(site: Site) -> list[str]:
    return site.command("test", "--ckpt_path", "best", "--data.test", site.rows(name="test.jsonl"))


@kind()
def checkpoint_best_without_one_fit(site: Site) -> list[str]:
    return resumed(site, "best")


# --------------------------------------------------------------------------------------------------- flags


@kind()
def flag_unknown(site: Site) -> list[str]:
    return site.check("--trainr.max_epochs", "1")


@kind()
def flag_near_miss(site: Site) -> list[str]:
    return site.check("--trainer.max_epoch", "1")


@kind()
def flag_near_miss_in_model(site: Site) -> list[str]:
    return site.check("--model.adversery", "PGD")


@kind()
def flag_near_miss_in_data(site: Site) -> list[str]:
    return site.check("--data.trian", "rows.jsonl")


@kind()
def flag_near_miss_in_class(site: Site) -> list[str]:
    return site.check("--model.adversary", "PGD", "--model.adversary.step", "1")


@kind()
def flag_of_another_class(site: Site) -> list[str]:
    return site.check("--model.adversary", "FGM", "--model.adversary.steps", "3")


@kind()
def flag_unknown_command(site: Site) -> list[str]:
    return ["train", "--model", "ANIT"]


@kind()
def flag_no_command(site: Site) -> list[str]:
    return []


@kind()
def flag_before_command(site: Site) -> list[str]:
    return ["--model", "ANIT", "fit"]


@kind()
def flag_wrong_type(site: Site) -> list[str]:
    return site.check("--trainer.max_epochs", "many")


@kind()
def flag_wrong_type_in_model(site: Site) -> list[str]:
    return site.check("--model.max_new_tokens", "few")


@kind()
def flag_wrong_type_in_class(site: Site) -> list[str]:
    return site.check("--model.adversary", "PGD", "--model.adversary.epsilon", "big")


@kind()
def flag_wrong_choice(site: Site) -> list[str]:
    return site.check("--data.instructions", "short")


@kind()
def flag_without_value(site: Site) -> list[str]:
    return site.command("fit", "--ckpt_path")


@kind()
def flag_without_config(site: Site) -> list[str]:
    return ["fit", "-c"]


@kind()
def flag_stray_word(site: Site) -> list[str]:
    return site.check("rows.jsonl")


@kind()
def flag_no_such_device(site: Site) -> list[str]:
    return site.command("fit", "--trainer.accelerator", "tpu")


@kind()
def flag_unknown_accelerator(site: Site) -> list[str]:
    return site.command("fit", "--trainer.accelerator", "quantum")


@kind()
def flag_unknown_precision(site: Site) -> list[str]:
    return site.command("fit", "--trainer.precision", "12")


@kind()
def flag_root_is_a_file(site: Site) -> list[str]:
    return site.command("fit", "--trainer.default_root_dir", site.write("taken", ""), "--trainer.max_steps", "1")


@kind()
def flag_monitor_misspelt(site: Site) -> list[str]:
    rows = site.rows(name="validation.jsonl")
    return site.command("fit", "--data.validation", rows, "--checkpoint.monitor", "val/los", "--trainer.max_steps", "1")


@kind()
def flag_monitor_without_validation(site: Site) -> list[str]:
    return site.command("fit", "--checkpoint.monitor", "val/los", "--trainer.max_steps", "1")


# ----------------------------------------------------------------------------------------------- the small commands


@kind()
def noise_missing_input(site: Site) -> list[str]:
    return ["noise", "nowhere.jsonl", "out.jsonl"]


@kind()
def noise_no_arguments(site: Site) -> list[str]:
    return ["noise"]


@kind()
def noise_unknown_flag(site: Site) -> list[str]:
    return ["noise", site.rows(), "out.jsonl", "--omga", "0.2"]


@kind()
def noise_into_missing_folder(site: Site) -> list[str]:
    return ["noise", site.rows(), "nowhere/out.jsonl"]


@kind()
def noise_into_a_folder(site: Site) -> list[str]:
    (site.folder / "out.jsonl").mkdir()
    return ["noise", site.rows(), "out.jsonl"]


@kind()
def noise_into_unwritable_folder(site: Site) -> list[str]:
    return ["noise", site.rows(), "/proc/out.jsonl"]


@kind()
def noise_unknown_ending(site: Site) -> list[str]:
    return ["noise", site.rows(), "out.txt"]


@kind()
def noise_omega_two(site: Site) -> list[str]:
    return ["noise", site.rows(), "out.jsonl", "--omega", "2"]


@kind()
def noise_omega_no_number(site: Site) -> list[str]:
    return ["noise", site.rows(), "out.jsonl", "--omega", "much"]


@kind()
def noise_negative_phi(site: Site) -> list[str]:
    return ["noise", site.rows(), "out.jsonl", "--phi", "-1"]


@kind()
def noise_unknown_kind(site: Site) -> list[str]:
    return ["noise", site.rows(), "out.jsonl", "--kind", "tipos"]


@kind()
def noise_unknown_distortion(site: Site) -> list[str]:
    return ["noise", site.rows(), "out.jsonl", "--distortion", "RBF"]


@kind()
def noise_by_a_model_that_is_not_there(site: Site) -> list[str]:
    return ["noise", site.rows(), "out.jsonl", "--distortion", "LME"]


@kind()
def noise_without_instructions(site: Site) -> list[str]:
    return ["noise", site.rows({"tokens": ["Anna"], "ner_tags": ["B-PER"]}), "out.jsonl"]


@kind()
def noise_broken_row(site: Site) -> list[str]:
    return ["noise", site.write("rows.jsonl", json.dumps(ROW) + "\n{broken\n"), "out.jsonl"]


@kind()
def noise_lists_into_csv(site: Site) -> list[str]:
    return ["noise", site.rows({**ROW, "tags": ["a"]}), "out.csv"]


@kind()
def init_empty_rows(site: Site) -> list[str]:
    return ["init", "new", site.write("rows.jsonl", "")]


@kind()
def init_rows_not_given(site: Site) -> list[str]:
    return ["init", "new"]


@kind()
def init_missing_rows(site: Site) -> list[str]:
    return ["init", "new", "nowhere.jsonl"]


@kind()
def init_small_vocabulary(site: Site) -> list[str]:
    return ["init", "new", site.rows(), "--vocab_size", "100"]


@kind()
def init_heads_do_not_divide(site: Site) -> list[str]:
    return ["init", "new", site.rows(), "--hidden_size", "30", "--vocab_size", "300"]


@kind()
def init_no_heads(site: Site) -> list[str]:
    return ["init", "new", site.rows(), "--heads", "0", "--vocab_size", "300"]


@kind()
def init_no_layers(site: Site) -> list[str]:
    return ["init", "new", site.rows(), "--layers", "0", "--vocab_size", "300"]


@kind()
def init_folder_with_a_model(site: Site) -> list[str]:
    site.model("new")
    return ["init", "new", site.rows(), "--vocab_size", "300"]


@kind()
def init_folder_with_something_else(site: Site) -> list[str]:
    site.write("new/notes.txt", "mine")
    return ["init", "new", site.rows(), "--vocab_size", "300"]


@kind()
def init_folder_is_a_file(site: Site) -> list[str]:
    return ["init", site.write("new", "x"), site.rows(), "--vocab_size", "300"]


# ------------------------------------------------------------------------------------------------------ the test


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, with the content of files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


@pytest.mark.parametrize("name", KINDS)
def test_wrong_input_is_answered_clearly(
    name: str, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    args = KINDS[name].make(Site(tmp_path, tiny))
    before = tree(tmp_path)
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(args)
    message = capfd.readouterr().err
    assert ended.value.code == 2
    for words in KINDS[name].says:
        assert words in message
    assert "Traceback" not in message
    assert "Namespace(" not in message
    assert message.count("\n") < MOST_LINES
    assert len(message) < MOST_CHARACTERS
    assert tree(tmp_path) == before
