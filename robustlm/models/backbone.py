"""Any Hugging Face language model behind one small contract: embeddings in, answer logits and last states out."""

from __future__ import annotations

import inspect
import json
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import peft
import torch
import transformers
from safetensors import safe_open
from torch import Tensor, nn
from transformers.models.auto import modeling_auto

from robustlm.assets import TINY, tiny_model
from robustlm.batch import IGNORE, View
from robustlm.checks.places import check_file, what_is
from robustlm.checks.texts import shortened
from robustlm.losses import answer_cross_entropy
from robustlm.models.base import Answers, OptionScores, Pooling
from robustlm.models.decoding import greedy, prefill
from robustlm.models.tuning import Tuning, resume_prompt
from robustlm.utils.finite import refuse_nonfinite

log = logging.getLogger(__name__)

_PIECES = {"AutoConfig": "config", "AutoTokenizer": "tokenizer"}
_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PLAIN = "DynamicLayer"
_NUMBER = re.compile(r"\.\d+(?=\.)")
_TAKEN = frozenset({_PLAIN, "DynamicSlidingWindowLayer", "DummyLayer"})
"""Layers of a cache, by name as they come and go in transformers, that rows can be taken from."""


@dataclass
class Loading:
    """How a model is loaded."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Type of the weights; `auto` is what the checkpoint says."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    """Attention implementation; the model's own choice where not given."""
    four_bit: bool = False
    """Quantise frozen weights to 4-bit NF4 (needs bitsandbytes and a CUDA GPU; train an adapter on top)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass (non-reentrant): less memory, about a third more time."""
    scratch: bool = False
    """Start from random weights of the model's config instead of its checkpoint."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    tokenizer: str | None = None
    """Name or path of another tokenizer than the model's own."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Leave it off unless you have read that code."""


class Backbone(nn.Module):
    """A causal or encoder–decoder language model and its tokenizer.

    The constructor reads config and tokenizer only; `load` brings the weights.

    Args:
        name: `builtin:tiny` (the model that comes with the package), a hub name, or the folder of a model, of a PEFT
            adapter, or (with `scratch`) of a config and tokenizer.
        loading: How to load it.
        tuning: What to train; `None` uses the model as it is, all frozen.

    Raises:
        ValueError: The name leads to no model, or settings exclude each other.
    """

    model: Any

    def __init__(self, name: str, loading: Loading | None = None, tuning: Tuning | None = None) -> None:
        super().__init__()
        if name.startswith("builtin:") and name != TINY:
            raise ValueError(f"backbone: {name!r} does not come with the package; expected {TINY!r}")
        name = str(tiny_model()) if name == TINY else name
        self.name = name
        self.loading = loading or Loading()
        self.tuning = tuning
        if tuning is not None:
            tuning.check(gradient_checkpointing=self.loading.gradient_checkpointing)
        if (found := what_is(name)).startswith("no path"):
            raise ValueError(f"backbone: {shortened(name, 200)!r} is {found}; expected a model folder or a hub name")
        self.adapter = name if (Path(name) / "adapter_config.json").is_file() else None
        self.base_name = _adapter_base(Path(name)) if self.adapter else name
        self.config = self._pretrained(transformers.AutoConfig, self.base_name)
        self._check_kernels()
        self.tokenizer = self._load_tokenizer()
        self.is_encoder_decoder = bool(self.config.is_encoder_decoder)
        self._check_writes()
        self.model = None
        self._scale: Tensor | None = None
        self._select: Tensor | None = None
        self._pool: tuple[Pooling, Tensor] = ("last", torch.empty(0))
        self._state: Tensor | None = None

    # --- loading -----------------------------------------------------------------------------------------------

    @property
    def loaded(self) -> bool:
        """Whether the weights are there."""
        return self.model is not None

    def load(self) -> None:
        """Bring the weights, freeze and wrap them as `tuning` says, leave everything in train mode."""
        if self.loaded:
            return
        model = self._load_model()
        model.requires_grad_(True)
        if self.loading.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        model.train()  # from_pretrained leaves eval mode, in which dropout is silently off
        if self.adapter:
            model = self._load_adapter(model)
        elif self.tuning is None:
            model.requires_grad_(False)
        else:
            model = self.tuning.apply(model)
        model.train()
        refuse_nonfinite(model.named_parameters(), f"backbone: {self.name}")
        self.model = model
        head = self.base.get_output_embeddings()
        if head is None:
            raise ValueError(f"backbone: {self.name} ({type(self.base).__name__}) has no language-model head")
        head.register_forward_pre_hook(self._keep_answers)
        wanted = inspect.signature(self.base.forward).parameters
        self._takes_positions = "position_ids" in wanted and not self.is_encoder_decoder
        self._takes_cache = "past_key_values" in wanted

    @property
    def base(self) -> Any:
        """The transformers model inside a PEFT wrapper (or the model itself)."""
        return self.model.get_base_model() if self._is_peft else self.model

    @property
    def _is_peft(self) -> bool:
        return hasattr(self.model, "peft_config")

    @property
    def _prompt_learning(self) -> str | None:
        """`PREFIX_TUNING`, `PROMPT_TUNING`, or `None`."""
        if not self._is_peft or not self.model.active_peft_config.is_prompt_learning:
            return None
        return str(self.model.active_peft_config.peft_type.value)

    def _pretrained(self, factory: Any, name: str, **kwargs: Any) -> Any:
        if not name:
            raise ValueError("backbone: expected a hub name or a folder, found an empty string")
        looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
        path = Path(name).expanduser()
        found = what_is(path)
        if found not in ("a folder", "nothing") or (looks_local and found == "nothing"):
            raise ValueError(
                f"backbone: {shortened(name, 200)!r} is not a folder, found {found}; expected a model folder or a hub "
                "name"
            )
        _check_files(path)
        needed = factory is not transformers.AutoTokenizer  # an exported adapter has a tokenizer, and no config
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
                revision=self.loading.revision,
                trust_remote_code=self.loading.trust_remote_code,
                **kwargs,
            )
        except Exception as error:  # whatever a broken file makes transformers raise; no code of ours runs here
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            if not isinstance(error, OSError | ValueError | RuntimeError | ImportError):
                reason = f"{type(error).__name__}: {reason}"
            reason = re.sub(r"<class '([\w.]+)'>", r"\1", reason)
            what = _PIECES.get(factory.__name__, "model")
            place = "" if path.is_dir() else " (no folder, and no hub model that is in the cache or within reach)"
            raise ValueError(f"backbone: cannot load the {what} of {name!r}{place}: {reason}") from error

    def _load_tokenizer(self) -> Any:
        own = self.adapter if self.adapter and (Path(self.adapter) / "tokenizer_config.json").is_file() else None
        name = self.loading.tokenizer or own or self.base_name
        tokenizer = self._pretrained(transformers.AutoTokenizer, name)
        if not isinstance(tokenizer.model_max_length, int | float):
            raise ValueError(
                f"backbone: the tokenizer of {name!r} has model_max_length {tokenizer.model_max_length!r}; expected a "
                "number"
            )
        size = getattr(self.config.get_text_config(), "vocab_size", None)
        if size is not None and len(tokenizer) > size:
            raise ValueError(
                f"backbone: the tokenizer of {name!r} knows {len(tokenizer)} tokens, but the model embeds only "
                f"{size}; they do not belong together"
            )
        return tokenizer

    def _check_kernels(self) -> None:
        """Refuse attention code from the hub that a model's config names: transformers would download and run it."""
        for config in {id(one): one for one in (self.config, self.config.get_text_config())}.values():
            named = getattr(config, "_attn_implementation", None)
            if "/" in str(named) and not self.loading.trust_remote_code:
                raise ValueError(
                    f"backbone: the config of {self.base_name!r} names attention code at the hub ({named!r}); expected "
                    "sdpa or eager, or loading.trust_remote_code: true if you have read that code"
                )

    def _check_writes(self) -> None:
        """Refuse models without a text decoder, before their weights are brought."""
        config = self.config
        kind = str(config.model_type)
        names = modeling_auto
        writes = kind in (
            names.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
            if self.is_encoder_decoder
            else names.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        )
        # BERT and its kin are listed as decoders too, which they are only when configured so
        fills = kind in names.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not self.is_encoder_decoder
        own_code = self.loading.trust_remote_code and getattr(config, "auto_map", None)
        if not own_code and (not writes or (fills and not getattr(config, "is_decoder", False))):
            raise ValueError(
                f"backbone: {self.base_name!r} is a {kind!r} model, which does not write text; expected a decoder "
                "(Llama, Qwen, Gemma, …) or an encoder–decoder (T5, BART, …)"
            )

    def _load_model(self) -> Any:
        loading = self.loading
        factory = transformers.AutoModelForSeq2SeqLM if self.is_encoder_decoder else transformers.AutoModelForCausalLM
        extra: dict[str, Any] = {"attn_implementation": loading.attention} if loading.attention else {}
        if loading.scratch:
            dtype = torch.float32 if loading.dtype == "auto" else getattr(torch, loading.dtype)
            return cast(Any, factory).from_config(self.config, dtype=dtype, **extra)
        if loading.four_bit:
            extra["quantization_config"] = _four_bit()
        model, found = self._pretrained(
            factory,
            self.base_name,
            dtype=loading.dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that they are listed, and refused here
            output_loading_info=True,
            **extra,
        )
        problems = [f"{name} is missing" for name in sorted(found["missing_keys"])]
        problems += [f"{name}: {tuple(a)} instead of {tuple(b)}" for name, a, b in sorted(found["mismatched_keys"])]
        unknown = sorted(found["unexpected_keys"])
        problems += [f"{name} is more than the config has" for name in _of_more_layers(unknown, model)]
        if unknown and not problems:
            log.warning(
                "backbone %s: %d weights of the checkpoint are not used, since its config has no place for them: %s%s",
                self.base_name, len(unknown), ", ".join(unknown[:3]), " …" if len(unknown) > 3 else "",
            )  # fmt: skip
        if problems:  # transformers would start them at random
            shown = "; ".join(problems[:3]) + (" …" if len(problems) > 3 else "")
            raise ValueError(
                f"backbone: {len(problems)} weights of {self.base_name!r} do not fit its config ({shown}); expected "
                "a whole model, with a language-model head"
            )
        return model

    def _load_adapter(self, model: Any) -> Any:
        trained = self.tuning is not None
        if trained:
            log.info("backbone %s is an adapter: it is trained on as it is, `tuning` is not applied", self.name)
        try:
            config = peft.PeftConfig.from_pretrained(str(self.adapter))
            # peft refuses to train a loaded prefix or soft prompt
            loaded = peft.PeftModel.from_pretrained(
                model, str(self.adapter), is_trainable=trained and not config.is_prompt_learning
            )
        except Exception as error:  # whatever a broken adapter makes peft raise; no code of ours runs here
            reason = "; ".join(str(error).strip().split("\n")[:3]) or type(error).__name__
            raise ValueError(
                f"backbone: cannot load the adapter in {self.adapter!r}: {reason}\nIs it an adapter of "
                f"{self.base_name!r}, and whole?"
            ) from error
        if not config.is_prompt_learning:
            _check_adapter(Path(str(self.adapter)), loaded)
        if config.is_prompt_learning:
            resume_prompt(loaded, trained=trained, gradient_checkpointing=self.loading.gradient_checkpointing)
        return loaded

    # --- the contract ------------------------------------------------------------------------------------------

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that are trained."""
        return [p for p in self.model.parameters() if p.requires_grad]

    @property
    def embedding_scale(self) -> Tensor:
        """Mean norm of the token embeddings (fp32 scalar): the unit of perturbation strengths.

        Kept while the table is frozen, taken anew where it is trained.
        """
        table = self.base.get_input_embeddings()
        if self._scale is None or table.weight.requires_grad:
            norms = torch.linalg.vector_norm(table.weight.detach(), dim=-1, dtype=torch.float32)
            factor = float(getattr(table, "scalar_embed_scale", 1.0))
            self._scale = norms[norms > 0].mean() * factor
        return self._scale

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token embeddings `[R, T, H]` of ids `[R, T]`."""
        out: Tensor = self.base.get_input_embeddings()(input_ids)
        return out

    def forward(self, view: View, inputs_embeds: Tensor | None = None, pooling: Pooling = "last") -> Answers:
        """Run a view, and compute logits at its answer positions only.

        Args:
            view: R rows of T positions.
            inputs_embeds: `[R, T, H]` in place of the embeddings of `view.input_ids`.
            pooling: Which state stands for a row.

        Returns:
            Logits of the answer tokens and a state a row; the tensor of all positions × vocabulary never exists.
        """
        embeds = self.embed(view.input_ids) if inputs_embeds is None else inputs_embeds
        if self.is_encoder_decoder:
            keep = mask = view.labels != IGNORE
            inputs = self._seq2seq_inputs(view, embeds)
        else:
            keep = torch.zeros_like(view.labels, dtype=torch.bool)
            keep[:, :-1] = view.labels[:, 1:] != IGNORE
            inputs = self._causal_inputs(view, embeds)
            extra = inputs["inputs_embeds"].shape[1] - keep.shape[1]
            keep = nn.functional.pad(keep, (extra, 0))
            mask = nn.functional.pad(view.attention_mask.bool(), (extra, 0))
        self._pool = (pooling, mask)
        with self._answers_only(keep):
            runner = self.model if self._is_peft and not self._prompt_learning else self.base
            logits = runner(**inputs).logits[0]
            state, self._state = self._state, None
        assert state is not None
        targets = view.labels[view.labels != IGNORE]
        return Answers(logits, targets, keep.nonzero()[:, 0], state)

    def check_layer(self, layer: int) -> None:
        """Refuse a layer that the model, of which the config is enough, does not have. Raises `ValueError`."""
        if not -self.depth - 1 <= layer <= self.depth:
            raise ValueError(
                f"states.layer: found {layer}; {self.base_name!r} has {self.depth} layers, expected "
                f"{-self.depth - 1} … {self.depth} (0 is the embeddings, -1 or {self.depth} what the head reads)"
            )

    @property
    def depth(self) -> int:
        """How many layers the model has; of an encoder–decoder, its decoder."""
        config = self.config.get_text_config()
        names = ("num_decoder_layers", "decoder_layers") if self.is_encoder_decoder else ()
        found = [getattr(config, name, None) for name in (*names, "num_hidden_layers")]
        return int(next(count for count in found if count is not None))

    @torch.no_grad()
    def states(self, view: View, layer: int = -2, pooling: Pooling = "prompt_end") -> Tensor:
        """A hidden state for each row of a view, without dropout.

        The chosen layer's states are pooled as they pass; those of other layers and positions are not kept.

        Args:
            view: R rows. Without answers, the prompt's last token is the row's last.
            layer: Counted as transformers counts `hidden_states`: 0 is the embeddings, i what layer i gives, and the
                last, or -1, what the head reads, after the last norm. -2 is the penultimate layer.
            pooling: Which positions stand for a row.

        Returns:
            fp32 `[R, H]`.

        Raises:
            ValueError: There is no such layer, or the model's layers are not found.
        """
        self.check_layer(layer)
        found: list[Tensor] = []

        def keep(states: Tensor) -> None:
            found.append(self._pooled(states.float() if pooling == "mean" else states).float())

        with self._watched(self.base.get_decoder(), layer, self.depth, keep):
            self(view, pooling=pooling)
        (state,) = found
        return state

    @torch.no_grad()
    def text_states(self, texts: Sequence[str], layer: int | Literal["middle", "last"] = "middle") -> Tensor:
        """The mean hidden state of each text, in the model without its adapters and without dropout.

        Adapters, prefixes and soft prompts are left out, so the states stay the same while those are tuned. A first
        token, at which models pile up attention whatever it is, comes before the text and does not count towards the
        mean; nor do pads. Weights, modes and random state are left as they were.

        Args:
            texts: n texts; of an encoder–decoder, the encoder reads them.
            layer: `middle` (half of the layers, rounded down), `last` (after the last norm), or a number as in
                `states`.

        Returns:
            fp32 `[n, H]`; zeros for a text without tokens.

        Raises:
            ValueError: There is no such layer, or the model's layers are not found.
        """
        stack = self.base.get_encoder() if self.is_encoder_decoder else self.base.get_decoder()
        depth = int(self.config.get_text_config().num_hidden_layers) if self.is_encoder_decoder else self.depth
        number = {"middle": depth // 2, "last": depth}.get(layer, layer) if isinstance(layer, str) else layer
        if isinstance(number, str) or not -depth - 1 <= number <= depth:
            expected = f"middle, last, or {-depth - 1} … {depth}"
            raise ValueError(f"layer: found {layer!r}; {self.base_name!r} has {depth} layers, expected {expected}")
        tokens = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        first = next((one for one in (self.tokenizer.bos_token_id, *self._ends) if one is not None), 0)
        rows = [[first, *row] for row in tokens]
        length = max(map(len, rows))
        side = slice(None, None, 1 if self.is_encoder_decoder else -1)  # encoders pad on the right
        device = self.base.get_input_embeddings().weight.device
        ids, mask = (
            torch.tensor([([*row[side], *[0] * (length - len(row))])[side] for row in filled], device=device)
            for filled in (rows, [[1] * len(row) for row in rows])
        )
        positions = mask.cumsum(1).sub(1).clamp(min=0)
        inputs: dict[str, Any] = {"inputs_embeds": self.embed(ids), "attention_mask": mask}
        if self._takes_positions:
            inputs["position_ids"] = positions
        if self._takes_cache:
            inputs["use_cache"] = False
        counted = (mask.bool() & (positions > 0))[:, :, None]
        found: list[Tensor] = []

        def keep(states: Tensor) -> None:
            summed = states.float().masked_fill(~counted, 0.0).sum(1)
            found.append(summed / counted.sum(1).clamp(min=1))

        with self._without_adapters(), self._watched(stack, number, depth, keep):
            stack(**inputs)
        (state,) = found
        return state

    @contextmanager
    def _watched(self, stack: nn.Module, layer: int, depth: int, keep: Callable[[Tensor], None]) -> Iterator[None]:
        """Evaluation mode, in which `keep` gets the states of a layer as they pass."""
        at = layer % (depth + 1)
        if at == depth:
            handle = stack.register_forward_hook(lambda _module, _args, out: keep(out[0]))
        else:
            handle = self._layers(stack, depth)[at].register_forward_pre_hook(
                lambda _module, args, kwargs: keep(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
            )
        was_training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            handle.remove()
            self.model.train(was_training)

    @contextmanager
    def _without_adapters(self) -> Iterator[None]:
        """The base model's layers as they were before tuning, where tuning adds weights."""
        if not self._is_peft or self._prompt_learning:  # the base model itself has neither prefix nor prompt
            yield
            return
        trained = {name: weight.requires_grad for name, weight in self.model.named_parameters()}
        try:
            with self.model.disable_adapter():
                yield
        finally:  # peft sets these for the active adapter as it thinks fit
            for name, weight in self.model.named_parameters():
                weight.requires_grad_(trained[name])

    @property
    def keeps_base(self) -> bool:
        """Whether training leaves the weights of the base model as they are: `text_states` then never change."""
        return self._is_peft or not any(weight.requires_grad for weight in self.model.parameters())

    @torch.no_grad()
    def generate(self, view: View, max_new_tokens: int) -> list[str]:
        """Greedy answers to the prompts of a view without answers, one string a row.

        Where the model's cache allows, what prompts begin with in common is run once, and answers that have ended leave
        the batch; otherwise (encoder–decoders, prompt learning, sliding windows, …) transformers generates.
        """
        was_training = self.model.training
        self.model.eval()
        try:
            with self._no_checkpointing():
                plain = self._has_plain_cache(_longest(view) + max_new_tokens)
                ids = self._greedy(view, max_new_tokens) if plain else self._generated(view, max_new_tokens)
        finally:
            self.model.train(was_training)
        texts: list[str] = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _greedy(self, view: View, max_new_tokens: int) -> list[list[int]]:
        read = prefill(self._run, view.input_ids, view.attention_mask, transformers.DynamicCache(config=self.config))
        return greedy(self._run, read, ends=self._ends, max_new_tokens=max_new_tokens)

    def _generated(self, view: View, max_new_tokens: int) -> Tensor:
        tokenizer = self.tokenizer
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        config = cast(Any, transformers.GenerationConfig)(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,  # or else the model's own settings count, and the likeliest token may be refused
            no_repeat_ngram_size=0,
            pad_token_id=pad,
            eos_token_id=self._ends,
            bos_token_id=tokenizer.bos_token_id,
            decoder_start_token_id=self._decoder_start,
        )
        inputs, skipped = self._generation_inputs(view)
        found: Tensor = self.base.generate(**inputs, generation_config=config)[:, skipped:]
        return found

    def texts(self, view: View) -> list[str]:
        """The prompts of a view as text, one string a row, without what the tokenizer adds at their ends by itself.

        A chat template's special tokens are written out.
        """
        tokenizer = self.tokenizer
        starts = {tokenizer.bos_token_id, getattr(tokenizer, "cls_token_id", None)} - {None}
        ends = {tokenizer.eos_token_id, getattr(tokenizer, "sep_token_id", None)} - {None}
        found = []
        for ids, mask in zip(view.input_ids, view.attention_mask, strict=True):
            row = ids[mask.bool()].tolist()
            row = row[1:] if row and row[0] in starts else row
            found.append(row[:-1] if row and row[-1] in ends else row)
        texts: list[str] = tokenizer.batch_decode(found, clean_up_tokenization_spaces=False)
        return texts

    @torch.no_grad()
    def option_scores(self, options: View, rows: Tensor, pass_rows: int) -> OptionScores:
        """Log-likelihood of every option under teacher forcing, without dropout.

        End of sequence counts, as it is trained: the score is that of the whole answer and not of one that begins so.
        Options that differ in one token are told apart by that token, what follows it and their ends.

        Args:
            options: O rows, a prompt with an option for its answer; those of one row share the prompt.
            rows: Int64 `[O]`: the row each option belongs to.
            pass_rows: How many options one forward pass may have; those of like length run together.
        """
        was_training = self.model.training
        self.model.eval()
        try:
            shares = len(rows) > len(torch.unique(rows)) and bool(self._caches(_longest(options)))
            score = self._score_shared if shares else self._score_alone
            sums = torch.empty(len(rows), dtype=torch.float64)
            for chosen in _passes(options, rows, pass_rows):
                part = options.select(chosen, encoder_decoder=self.is_encoder_decoder)
                sums[chosen.cpu()] = score(part, rows[chosen]).cpu().double()
        finally:
            self.model.train(was_training)
        dtype = torch.float64 if self._dtype == torch.float64 else torch.float32
        return OptionScores(sums.to(dtype), (options.labels != IGNORE).sum(1).cpu(), rows.cpu())

    # --- inside ------------------------------------------------------------------------------------------------

    @property
    def _dtype(self) -> torch.dtype:
        found: torch.dtype = next(self.base.parameters()).dtype
        return found

    def _layers(self, stack: nn.Module, depth: int) -> nn.ModuleList:
        """The layers of a decoder or encoder; what layer i + 1 reads is what layer i gives."""
        for module in stack.modules():
            if isinstance(module, nn.ModuleList) and len(module) == depth:
                return module
        raise ValueError(
            f"states.layer: {type(stack).__name__} holds no list of {depth} layers; expected layer -1 of this model"
        )

    def _score_alone(self, options: View, rows: Tensor) -> Tensor:
        """Log-likelihood `[O]` of options, each run with its whole prompt."""
        said: Answers = self(options)
        return -answer_cross_entropy(said.logits, said.targets, said.rows, len(options))

    def _score_shared(self, options: View, rows: Tensor) -> Tensor:
        """The same for decoder-only models, whose prompts are run once for all options of a row."""
        answered = options.labels != IGNORE
        prompted = options.attention_mask.bool() & ~answered
        heads, owner = torch.unique(rows, return_inverse=True)
        first = torch.stack([(rows == head).nonzero()[0, 0] for head in heads])
        prompts, mask = _packed(options.input_ids[first], prompted[first], left=True)
        answers, given = _packed(options.labels, answered, left=False)

        plain = self._has_plain_cache(_longest(options))
        cache = transformers.DynamicCache(config=self.config) if plain else None
        read = prefill(self._run, prompts, mask, cache, share=plain)
        mask, cache = read.mask, read.cache
        lengths = mask.sum(1)
        start = read.logits[owner]
        scores = -answer_cross_entropy(start, answers[:, 0], torch.arange(len(owner), device=owner.device), len(owner))
        keep = given[:, 1:].bool()
        if keep.any():
            cache.batch_select_indices(owner)
            positions = lengths[owner][:, None] + torch.arange(keep.shape[1], device=owner.device)
            seen = torch.cat([mask[owner], given[:, :-1]], dim=1)
            rest = self._logits(keep, answers[:, :-1], seen, positions, use_cache=True, past_key_values=cache)
            scores = scores - answer_cross_entropy(
                rest.logits[0], answers[:, 1:][keep], keep.nonzero()[:, 0], len(owner)
            )
        return scores

    def _run(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Logits `[R, V]` after the last of ids `[R, T]`, and the cache with them; see `decoding.Run`."""
        end = torch.zeros_like(ids, dtype=torch.bool)
        end[:, -1] = True
        out = self._logits(end, ids, mask, positions, use_cache=True, past_key_values=cache)
        return out.logits[0], out.past_key_values

    def _caches(self, length: int) -> set[str]:
        """Kinds of layers of the cache; none where rows of so many tokens cannot be run in parts, or be taken from it.

        Prompt learning brings a cache of its own, some models have none, or states that no row can be taken from, or
        turn keys otherwise in long rows.
        """
        if not self._takes_positions or not self._takes_cache or self._prompt_learning is not None:
            return set()
        if length > _unscaled(self.config.get_text_config()):
            return set()
        kinds = {type(layer).__name__ for layer in transformers.DynamicCache(config=self.config).layers}
        return kinds if kinds <= _TAKEN else set()

    def _has_plain_cache(self, length: int) -> bool:
        """Whether the cache keeps keys and values of all positions, so that rows can be taken and padded anywhere.

        Windows count padding; GPT-Neo has some that its cache does not know of.
        """
        local = "local" in (getattr(self.config, "attention_layers", None) or ())
        return not local and self._caches(length) == {_PLAIN}

    @property
    def _ends(self) -> list[int]:
        """Tokens that end an answer: the tokenizer's, which training teaches, and those of a chat model's turns."""
        own = getattr(self.base.generation_config, "eos_token_id", None)
        own = own if isinstance(own, list) else [] if own is None else [own]
        return list(dict.fromkeys([int(self.tokenizer.eos_token_id), *map(int, own)]))

    def _logits(self, keep: Tensor, ids: Tensor, mask: Tensor, positions: Tensor, **cache: Any) -> Any:
        """The output of the base model with logits `[1, n, V]` at the n kept positions."""
        self._pool = ("last", keep)
        with self._answers_only(keep):
            return self.base(input_ids=ids, attention_mask=mask, position_ids=positions, **cache)

    def _causal_inputs(self, view: View, embeds: Tensor) -> dict[str, Any]:
        mask = view.attention_mask
        inputs: dict[str, Any] = {"use_cache": False}
        kind = self._prompt_learning
        if kind is not None:
            count = self.model.active_peft_config.num_virtual_tokens
            mask = torch.cat([mask.new_ones(mask.shape[0], count), mask], dim=1)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        if kind == "PREFIX_TUNING":
            inputs["past_key_values"] = self.model.get_prompt(embeds.shape[0])
            inputs["use_cache"] = True
        elif kind is not None:
            embeds = torch.cat([self.model.get_prompt(embeds.shape[0]).to(embeds.dtype), embeds], dim=1)
        if self._takes_positions:
            inputs["position_ids"] = positions[:, -embeds.shape[1] :]
        return {**inputs, "inputs_embeds": embeds, "attention_mask": mask}

    def _seq2seq_inputs(self, view: View, embeds: Tensor) -> dict[str, Any]:
        mask = view.attention_mask
        kind = self._prompt_learning
        inputs: dict[str, Any] = {"use_cache": False}
        if kind == "PREFIX_TUNING":
            inputs["past_key_values"] = self.model.get_prompt(embeds.shape[0])
            inputs["use_cache"] = True
        elif kind is not None:
            count = self.model.active_peft_config.num_virtual_tokens
            prompt = self.model.get_prompt(embeds.shape[0])[:, :count]
            embeds = torch.cat([prompt.to(embeds.dtype), embeds], dim=1)
            mask = torch.cat([mask.new_ones(mask.shape[0], count), mask], dim=1)
        answers = view.labels.masked_fill(view.labels == IGNORE, self._decoder_pad)
        shifted = torch.cat([answers.new_full((answers.shape[0], 1), self._decoder_start or 0), answers[:, :-1]], dim=1)
        return {**inputs, "inputs_embeds": embeds, "attention_mask": mask, "decoder_input_ids": shifted}

    def _generation_inputs(self, view: View) -> tuple[dict[str, Any], int]:
        """Arguments for the base model's `generate`, and how many leading output tokens are not generated."""
        ids, mask = view.input_ids, view.attention_mask
        kind = self._prompt_learning
        if kind is None:
            skipped = 1 if self.is_encoder_decoder else ids.shape[1]
            return {"input_ids": ids, "attention_mask": mask}, skipped
        count = self.model.active_peft_config.num_virtual_tokens
        rows = ids.shape[0]
        if kind == "PREFIX_TUNING":
            past = self.model.get_prompt(rows)
            if self.is_encoder_decoder:
                start = ids.new_full((rows, count + 1), self._decoder_start or 0)
                inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": start}
                # a mask as wide as the ids tells generate that the cache holds the first `count` of them
                inputs["decoder_attention_mask"] = torch.ones_like(start)
                return {**inputs, "past_key_values": past}, count + 1
            # generate takes the first `count` tokens for those that the cache already holds
            ids = torch.cat([ids.new_full((rows, count), ids[0, -1].item()), ids], dim=1)
            mask = torch.cat([mask.new_ones(rows, count), mask], dim=1)
            return {"input_ids": ids, "attention_mask": mask, "past_key_values": past}, ids.shape[1]
        embeds = self.embed(ids)
        prompt = self.model.get_prompt(rows)[:, :count].to(embeds.dtype)
        mask = torch.cat([mask.new_ones(rows, count), mask], dim=1)
        inputs = {"inputs_embeds": torch.cat([prompt, embeds], dim=1), "attention_mask": mask}
        return inputs, 1 if self.is_encoder_decoder else 0

    @property
    def _decoder_start(self) -> int | None:
        if not self.is_encoder_decoder:
            return None
        config = self.config
        start = getattr(config, "decoder_start_token_id", None)
        found = start if start is not None else getattr(config, "pad_token_id", None)
        return int(found) if found is not None else 0

    @property
    def _decoder_pad(self) -> int:
        pad = getattr(self.config, "pad_token_id", None)
        return int(pad) if pad is not None else 0

    def _keep_answers(self, head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Before the head: pool the states, and hand on the answer positions alone."""
        if self._select is None:
            return None
        states = args[0]
        self._state = self._pooled(states)
        return (states[self._select].unsqueeze(0), *args[1:])

    def _pooled(self, states: Tensor) -> Tensor:
        """`[R, H]` of final hidden states `[R, T, H]`."""
        pooling, mask = self._pool
        if pooling == "mean":
            kept = mask[:, :, None].to(states.dtype)
            return (states * kept).sum(1) / kept.sum(1).clamp_min(1)
        if pooling == "max":
            return states.masked_fill(~mask[:, :, None], -torch.inf).amax(1)
        assert self._select is not None
        answers = self._select.long()
        if pooling == "prompt_end":  # the position whose logits give the answer's first token
            at = answers.argmax(1) if self.is_encoder_decoder else _first(answers)
        elif self.is_encoder_decoder:
            at = answers.sum(1).sub(1).clamp(min=0)
        else:  # rows of decoder-only models end together
            return states[:, -1]
        return states[torch.arange(states.shape[0], device=states.device), at]

    @contextmanager
    def _answers_only(self, keep: Tensor) -> Iterator[None]:
        self._select = keep
        try:
            yield
        finally:
            self._select = None

    @contextmanager
    def _no_checkpointing(self) -> Iterator[None]:
        """Generation needs the key-value cache, which checkpointing turns off."""
        if not self.loading.gradient_checkpointing:
            yield
            return
        self.base.gradient_checkpointing_disable()
        try:
            yield
        finally:
            self.base.gradient_checkpointing_enable({"use_reentrant": False})


def _passes(options: View, rows: Tensor, size: int) -> Iterator[Tensor]:
    """The options of each forward pass: those of a row together, those of like length together."""
    lengths = options.attention_mask.sum(1)
    longest = torch.zeros(int(rows.max()) + 1, dtype=lengths.dtype, device=lengths.device)
    longest = longest.scatter_reduce(0, rows.to(lengths.device), lengths, "amax")[rows.to(lengths.device)]
    order = longest.argsort(descending=True, stable=True)
    # rows of like length keep their options together, as the sort is stable and rows ascend
    yield from torch.split(order, size)


def _packed(ids: Tensor, kept: Tensor, *, left: bool) -> tuple[Tensor, Tensor]:
    """Kept tokens of each row moved to one side of `[R, W]`, and their mask; 0 at padding, on the left or right."""
    rows = [row[own] for row, own in zip(ids, kept, strict=True)]
    width = max(len(row) for row in rows)
    found = ids.new_zeros(len(rows), width)
    mask = ids.new_zeros(len(rows), width)
    for i, row in enumerate(rows):
        at = slice(width - len(row), width) if left else slice(0, len(row))
        found[i, at], mask[i, at] = row, 1
    return found, mask


def _longest(view: View) -> int:
    """Tokens of the longest row."""
    return int(view.attention_mask.sum(1).max())


def _unscaled(config: Any) -> float:
    """The longest row whose rotary positions are those of shorter ones: some models scale them beyond it."""
    rope = getattr(config, "rope_parameters", None) or {}
    found = [
        one.get("original_max_position_embeddings") or config.max_position_embeddings
        for one in (rope, *rope.values())  # one for all layers, or for each kind of layer
        if isinstance(one, dict) and one.get("rope_type") in ("dynamic", "longrope")
    ]
    return min(found, default=math.inf)


def _first(answers: Tensor) -> Tensor:
    """The first answer position of each row `[R]`; the last position of rows without an answer."""
    return torch.where(answers.any(1), answers.argmax(1), answers.shape[1] - 1)


def _check_files(folder: Path) -> None:
    """Refuse pipes, devices and circles of links among a model's files, which a reader would wait for without end."""
    for file in folder.iterdir() if folder.is_dir() else ():
        if what_is(file) not in ("a folder", "nothing", "a link to nothing"):
            check_file(file, "a file of a model")


def _check_adapter(folder: Path, model: Any) -> None:
    """Refuse an adapter whose weights are not those that its config describes: peft starts the others at random."""
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
    """Those of the names that a model's own weights have too, but for the numbers of layers in them."""
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
        raise ValueError(  # peft would import the module that it names
            f"backbone: {file} names Megatron parts ({config.get('megatron_core')!r}), which would be imported on a "
            "file's word; expected an adapter of a transformers model, with megatron_config null"
        )
    if not (folder / _ADAPTER_WEIGHTS).is_file():
        raise ValueError(f"backbone: adapter folder {str(folder)!r} holds no {_ADAPTER_WEIGHTS}")
    beside = folder / name
    return str(beside) if what_is(name) == "nothing" and re.match(r"\.{1,2}/", name) and beside.is_dir() else name


def _four_bit() -> Any:
    if not torch.cuda.is_available():
        raise ValueError("loading.four_bit: 4-bit weights need a CUDA GPU, and none is here; set it to false")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "loading.four_bit: bitsandbytes is not installed; pip install 'robustlm[quantization]'"
        ) from error
    return cast(Any, transformers.BitsAndBytesConfig)(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
