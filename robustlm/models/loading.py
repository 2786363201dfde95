"""Reads a model by name: config, tokenizer, weights, adapter. Raises `ValueError` if they do not fit together."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import peft
import torch
import transformers
from safetensors import safe_open
from torch import nn
from transformers import PretrainedConfig
from transformers.models.auto import modeling_auto

from robustlm.assets import TINY, tiny_model
from robustlm.checks.places import check_file, what_is
from robustlm.checks.texts import shortened
from robustlm.models.loaded import LoadedModel
from robustlm.models.low_rank import widen
from robustlm.models.tuning import Tuning, resume_prompt
from robustlm.utils.finite import refuse_nonfinite

log = logging.getLogger(__name__)

_PIECES = {"AutoConfig": "config", "AutoTokenizer": "tokenizer"}
_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_NUMBER = re.compile(r"\.\d+(?=\.)")


@dataclass
class Loading:
    """How a model is loaded."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Data type of the weights; `auto`: the type in the checkpoint."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    """Attention implementation; null: the model's default."""
    four_bit: bool = False
    """Quantise frozen weights to 4-bit NF4 (needs bitsandbytes and a CUDA GPU; train an adapter on top)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass (non-reentrant): less memory, about a third more time."""
    cast_once: bool = True
    """Under mixed precision, cast frozen float32 weights once and keep the copy, instead of at each pass. The results
    are the same; the copy takes half as much memory as the weights."""
    compile: bool = False
    """Compile the layers with `torch.compile` for training (not for answers). It needs a C++ compiler, and about a
    minute before the first steps; see docs/performance.md for what it gains."""
    padding_free: bool = False
    """Run the rows of a batch in one sequence without padding, each row on its own; for decoders. Losses and gradients
    are those of padded rows."""
    scratch: bool = False
    """Start from random weights of the model's config instead of its checkpoint."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    tokenizer: str | None = None
    """Name or path of a tokenizer that replaces the model's own."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Do not set this unless you have read that code."""

    def __post_init__(self) -> None:
        for other in ("gradient_checkpointing", "padding_free"):
            if self.compile and getattr(self, other):
                raise ValueError(
                    f"loading.compile: found true with {other} true, which are not compiled together; expected only "
                    "one of them"
                )


@dataclass(frozen=True)
class Place:
    """Names or folders of a model's parts."""

    name: str
    """Hub name or folder."""
    adapter: str | None
    """The same as `name` if that is the folder of a PEFT adapter, else null."""
    base_name: str
    """Hub name or folder of the model without the adapter."""


def find(name: str) -> Place:
    """Find a model's parts by its name.

    Args:
        name: `builtin:tiny`, a hub name, or the folder of a model or of a PEFT adapter.

    Raises:
        ValueError: The name is not a possible model name, or an adapter does not name its base model.
    """
    if name.startswith("builtin:") and name != TINY:
        raise ValueError(f"backbone: {name!r} does not come with the package; expected {TINY!r}")
    name = str(tiny_model()) if name == TINY else name
    if (found := what_is(name)).startswith("no path"):
        raise ValueError(f"backbone: {shortened(name, 200)!r} is {found}; expected a model folder or a hub name")
    adapter = name if (Path(name) / "adapter_config.json").is_file() else None
    return Place(name, adapter, _adapter_base(Path(name)) if adapter else name)


def read_config(place: Place, loading: Loading) -> PretrainedConfig:
    """The config of a model that generates text.

    Raises:
        ValueError: There is no config, it names code at the hub, or the model has no text decoder.
    """
    config: PretrainedConfig = _pretrained(transformers.AutoConfig, place.base_name, loading)
    _check_kernels(place, config, loading)
    _check_writes(place, config, loading)
    return config


def read_tokenizer(place: Place, config: PretrainedConfig, loading: Loading) -> Any:
    """The tokenizer of a model, or the one that `loading` names.

    Raises:
        ValueError: There is no tokenizer, or it has more tokens than the model's embedding table.
    """
    own = place.adapter if place.adapter and (Path(place.adapter) / "tokenizer_config.json").is_file() else None
    name = loading.tokenizer or own or place.base_name
    tokenizer = _pretrained(transformers.AutoTokenizer, name, loading)
    if not isinstance(tokenizer.model_max_length, int | float):
        raise ValueError(
            f"backbone: the tokenizer of {name!r} has model_max_length {tokenizer.model_max_length!r}; expected a "
            "number"
        )
    size = getattr(config.get_text_config(), "vocab_size", None)
    if size is not None and len(tokenizer) > size:
        raise ValueError(
            f"backbone: the tokenizer of {name!r} knows {len(tokenizer)} tokens, but the model embeds only {size}; "
            "they do not belong together"
        )
    return tokenizer


def read_model(
    place: Place, config: PretrainedConfig, tokenizer: Any, loading: Loading, tuning: Tuning | None
) -> LoadedModel:
    """Read the weights, freeze and wrap them as `tuning` says, and set train mode.

    Raises:
        ValueError: Weights are missing, of another shape or not finite; an adapter does not fit; or the model has no
            language-model head.
    """
    model = _base_model(place, config, loading)
    for weight in model.parameters():
        weight.requires_grad_(weight.is_floating_point())  # codes of quantised weights have no gradients
    if loading.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    model.train()  # from_pretrained sets eval mode, which disables dropout
    if place.adapter:
        model = _with_adapter(model, place, loading, trained=tuning is not None)
    elif tuning is None:
        model.requires_grad_(False)
    else:
        model = tuning.apply(model)
    widen(model)
    model.train()
    refuse_nonfinite(model.named_parameters(), f"backbone: {place.name}")
    loaded = LoadedModel.of(model, tokenizer, config, padding_free=loading.padding_free)
    if loaded.base.get_output_embeddings() is None:
        raise ValueError(f"backbone: {place.name} ({type(loaded.base).__name__}) has no language-model head")
    return loaded


def _pretrained(factory: Any, name: str, loading: Loading, **kwargs: Any) -> Any:
    """Load a part of a model with a class of transformers; errors name the model and the part."""
    if not name:
        raise ValueError("backbone: expected a hub name or a folder, found an empty string")
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    path = Path(name).expanduser()
    found = what_is(path)
    if found not in ("a folder", "nothing") or (looks_local and found == "nothing"):
        raise ValueError(
            f"backbone: {shortened(name, 200)!r} is not a folder, found {found}; expected a model folder or a hub name"
        )
    _check_files(path)
    needed = factory is not transformers.AutoTokenizer  # an exported adapter has a tokenizer but no config
    if needed and path.is_dir() and not (path / "config.json").is_file():
        raise ValueError(
            f"backbone: folder {name!r} holds no config.json; expected a folder that `save_pretrained` or "
            "`robustlm init` wrote"
        )
    if path.is_dir() and factory is transformers.AutoTokenizer and not any(path.glob("tokenizer*")):
        raise ValueError(f"backbone: folder {name!r} holds no tokenizer.json; expected one, or loading.tokenizer")
    try:
        return factory.from_pretrained(
            str(Path(name).expanduser()) if looks_local else name,
            revision=loading.revision,
            trust_remote_code=loading.trust_remote_code,
            **kwargs,
        )
    except Exception as error:  # broken files raise many kinds of errors in transformers; none of our code runs here
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        if not isinstance(error, OSError | ValueError | RuntimeError | ImportError):
            reason = f"{type(error).__name__}: {reason}"
        reason = re.sub(r"<class '([\w.]+)'>", r"\1", reason)
        what = _PIECES.get(factory.__name__, "model")
        place = "" if path.is_dir() else " (found no such folder, and no such hub model in the cache or online)"
        raise ValueError(f"backbone: cannot load the {what} of {name!r}{place}: {reason}") from error


def _check_kernels(place: Place, config: PretrainedConfig, loading: Loading) -> None:
    """Refuse a config that names attention code at the hub, since transformers would download and run it."""
    for part in {id(one): one for one in (config, config.get_text_config())}.values():
        named = getattr(part, "_attn_implementation", None)
        if "/" in str(named) and not loading.trust_remote_code:
            raise ValueError(
                f"backbone: the config of {place.base_name!r} names attention code at the hub ({named!r}); expected "
                "sdpa or eager, or loading.trust_remote_code: true if you have read that code"
            )


def _check_writes(place: Place, config: PretrainedConfig, loading: Loading) -> None:
    """Refuse models without a text decoder, before their weights are read."""
    kind = str(config.model_type)
    names = modeling_auto
    writes = kind in (
        names.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
        if config.is_encoder_decoder
        else names.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    )
    # BERT and similar models are also listed as decoders, but are decoders only if their config says so
    fills = kind in names.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.is_encoder_decoder
    own_code = loading.trust_remote_code and getattr(config, "auto_map", None)
    if not own_code and (not writes or (fills and not getattr(config, "is_decoder", False))):
        raise ValueError(
            f"backbone: {place.base_name!r} is a {kind!r} model, which does not write text; expected a decoder "
            "(Llama, Qwen, Gemma, …) or an encoder–decoder (T5, BART, …)"
        )


def _base_model(place: Place, config: PretrainedConfig, loading: Loading) -> Any:
    """The model without an adapter."""
    factory = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    extra: dict[str, Any] = {"attn_implementation": loading.attention} if loading.attention else {}
    if loading.scratch:
        dtype = torch.float32 if loading.dtype == "auto" else getattr(torch, loading.dtype)
        return cast(Any, factory).from_config(config, dtype=dtype, **extra)
    if loading.four_bit:
        extra["quantization_config"] = _four_bit()
    model, found = _pretrained(
        factory,
        place.base_name,
        loading,
        dtype=loading.dtype,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # transformers then lists them, and they raise an error below
        output_loading_info=True,
        **extra,
    )
    problems = [f"{name} is missing" for name in sorted(found["missing_keys"])]
    problems += [f"{name}: {tuple(a)} instead of {tuple(b)}" for name, a, b in sorted(found["mismatched_keys"])]
    unknown = sorted(found["unexpected_keys"])
    problems += [f"{name} is of a layer that the config does not have" for name in _of_more_layers(unknown, model)]
    if unknown and not problems:
        log.warning(
            "backbone %s: %d weights of the checkpoint are not used, since its config has no place for them: %s%s",
            place.base_name, len(unknown), ", ".join(unknown[:3]), " …" if len(unknown) > 3 else "",
        )  # fmt: skip
    if problems:  # transformers fills these weights with random numbers
        shown = "; ".join(problems[:3]) + (" …" if len(problems) > 3 else "")
        raise ValueError(
            f"backbone: {len(problems)} weights of {place.base_name!r} do not fit its config ({shown}); expected "
            "a whole model, with a language-model head"
        )
    return model


def _with_adapter(
    model: transformers.PreTrainedModel, place: Place, loading: Loading, *, trained: bool
) -> peft.PeftModel:
    """The model with the adapter from a folder."""
    if trained:
        log.info("backbone %s is an adapter: it is trained on as it is, `tuning` is not applied", place.name)
    try:
        config = peft.PeftConfig.from_pretrained(str(place.adapter))
        # peft refuses to train a loaded prefix or soft prompt
        loaded = peft.PeftModel.from_pretrained(
            model, str(place.adapter), is_trainable=trained and not config.is_prompt_learning
        )
    except Exception as error:  # broken adapters raise many kinds of errors in peft; none of our code runs here
        reason = "; ".join(str(error).strip().split("\n")[:3]) or type(error).__name__
        raise ValueError(
            f"backbone: cannot load the adapter in {place.adapter!r}: {reason}\nIs it a complete "
            f"adapter of {place.base_name!r}?"
        ) from error
    if not config.is_prompt_learning:
        _check_adapter(Path(str(place.adapter)), loaded)
    if config.is_prompt_learning:
        resume_prompt(loaded, trained=trained, gradient_checkpointing=loading.gradient_checkpointing)
    return loaded


def _check_files(folder: Path) -> None:
    """Refuse pipes, devices and circular links among a model's files, since reading them might never end."""
    for file in folder.iterdir() if folder.is_dir() else ():
        if what_is(file) not in ("a folder", "nothing", "a link to nothing"):
            check_file(file, "a file of a model")


def _check_adapter(folder: Path, model: peft.PeftModel) -> None:
    """Refuse an adapter whose weights do not match its config, since peft fills missing ones with random numbers."""
    expected = set(peft.get_peft_model_state_dict(model, save_embedding_layers=False))
    with safe_open(folder / _ADAPTER_WEIGHTS, framework="pt") as file:
        found = set(file.keys())
    problems = [f"{name} is missing" for name in sorted(expected - found)]
    problems += [f"{name} is unknown" for name in sorted(found - expected) if ".lora_" in name]
    if problems:
        shown = "; ".join(problems[:3]) + (" …" if len(problems) > 3 else "")
        raise ValueError(
            f"backbone: {len(problems)} weights of the adapter in {str(folder)!r} do not fit its config and model "
            f"({shown}); expected a whole adapter of this model"
        )


def _of_more_layers(names: list[str], model: nn.Module) -> list[str]:
    """The names that differ from the names of the model's weights only in the layer number."""
    known = {_NUMBER.sub(".#", name) for name, _ in model.named_parameters()}
    return [name for name in names if _NUMBER.search(name) and _NUMBER.sub(".#", name) in known]


def _adapter_base(folder: Path) -> str:
    file = folder / "adapter_config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"backbone: {file} is no PEFT adapter config: {error}") from error
    name = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(name, str) or not name:
        raise ValueError(f"backbone: {file} names no base model; expected the key base_model_name_or_path")
    if config.get("peft_type") not in list(peft.PeftType):
        raise ValueError(f"backbone: {file}: unknown peft_type {config.get('peft_type')!r}; is peft too old for it?")
    if config.get("megatron_config") or config.get("megatron_core") not in (None, "megatron.core"):
        raise ValueError(  # peft would import the named module
            f"backbone: {file} names Megatron parts ({config.get('megatron_core')!r}), which peft would "
            "import; expected an adapter of a transformers model, with megatron_config null"
        )
    if not (folder / _ADAPTER_WEIGHTS).is_file():
        raise ValueError(f"backbone: adapter folder {str(folder)!r} holds no {_ADAPTER_WEIGHTS}")
    beside = folder / name
    return str(beside) if what_is(name) == "nothing" and re.match(r"\.{1,2}/", name) and beside.is_dir() else name


def _four_bit() -> transformers.BitsAndBytesConfig:
    if not torch.cuda.is_available():
        raise ValueError("loading.four_bit: 4-bit weights need a CUDA GPU, and none is here; set it to false")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "loading.four_bit: bitsandbytes is not installed; pip install 'robustlm[quantization]'"
        ) from error
    found: transformers.BitsAndBytesConfig = cast(Any, transformers.BitsAndBytesConfig)(  # its constructor is untyped
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    return found
