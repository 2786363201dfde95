"""A model that vLLM runs in this process, for fast tests of larger models on a GPU."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from robustlm.batch import IGNORE, View
from robustlm.models.base import Answer, LanguageModel, OptionScores
from robustlm.models.loading import Loading, find, read_config, read_tokenizer
from robustlm.models.requests import Body, Hosting, seed_of
from robustlm.models.sampling import keys_of_rows
from robustlm.utils.errors import UserError

VLLM = "vllm:"
"""Prefix of names of models that vLLM runs."""


class VllmBackbone(LanguageModel):
    """A decoder-only model in vLLM. It answers and scores options, but cannot be tuned and shows no hidden states.

    Prompts are written and tokenised as for a local model, and vLLM gets the ids. So the prompts are the same, and
    options are scored with their end of sequence.

    Args:
        name: `vllm:` and a hub name or folder.
        hosting: `temperature`, `top_p`, `seed` (each row and draw gets one that is made of it) and `stop` of answers,
            further arguments of `vllm.SamplingParams` (`body`), and arguments of `vllm.LLM` (`engine`). Other settings
            have no effect.

    Raises:
        ValueError: The name matches no model, or the model is an encoder–decoder or a PEFT adapter.
    """

    closed = "runs in vLLM"

    def __init__(self, name: str, hosting: Hosting | None = None) -> None:
        super().__init__()
        place = find(name.removeprefix(VLLM))
        if place.adapter:
            raise ValueError(
                f"backbone: {name} is a PEFT adapter; expected a whole model, as `robustlm merge` writes it"
            )
        loading = Loading()
        self.name = name
        self.hosting = hosting or Hosting()
        self.config = read_config(place, loading)
        self.is_encoder_decoder = bool(self.config.is_encoder_decoder)
        if self.is_encoder_decoder:
            raise ValueError(f"backbone: {name} is an encoder–decoder; expected a decoder-only model in vLLM")
        self.tokenizer = read_tokenizer(place, self.config, loading)
        self._folder = place.name
        self._vllm: Any = None
        self._engine: Any = None

    @property
    def identity(self) -> str:
        """The model's name, and all that decides its answers."""
        return json.dumps([self.name, self.hosting.sampling, self.hosting.engine], sort_keys=True)

    @property
    def loaded(self) -> bool:
        """Whether vLLM holds the weights."""
        return self._engine is not None

    def load(self) -> None:
        """Start vLLM, which reads the weights. Raises `UserError` if vLLM is not installed."""
        if self._engine is not None:
            return
        try:
            import vllm
        except ImportError as error:
            raise UserError(f"backbone: {self.name}: {error}; pip install 'robustlm[vllm]'") from None
        self._vllm = vllm
        self._engine = vllm.LLM(model=self._folder, **self.hosting.engine)

    @property
    def why_alike(self) -> str | None:
        """See `LanguageModel.why_alike`."""
        return self.hosting.why_alike

    def generate(self, view: View, max_new_tokens: int) -> list[str]:
        """See `LanguageModel.generate`."""
        return [answer.text for answer in self.respond(view, max_new_tokens)]

    def respond(self, view: View, max_new_tokens: int) -> list[Answer]:
        """See `LanguageModel.respond`."""
        prompts = [ids[kept].tolist() for ids, kept in zip(view.input_ids, view.attention_mask.bool(), strict=True)]
        found = self._run(prompts, self._sampling(view, max_new_tokens))
        return [
            Answer(
                one.outputs[0].text.strip(),
                finish_reason=one.outputs[0].finish_reason,
                prompt_tokens=len(prompt),
                answer_tokens=len(one.outputs[0].token_ids),
            )
            for one, prompt in zip(found, prompts, strict=True)
        ]

    def option_scores(self, options: View, rows: Tensor, pass_rows: int) -> OptionScores:
        """Log-likelihood of every option after its prompt, with end of sequence; see `LanguageModel.option_scores`."""
        kept = options.attention_mask.bool()
        texts = [ids[own].tolist() for ids, own in zip(options.input_ids, kept, strict=True)]
        lengths = (options.labels != IGNORE).sum(1).tolist()
        found = self._run(texts, {"max_tokens": 1, "temperature": 0, "prompt_logprobs": 0})
        sums, ends = [], []
        for one, ids, length in zip(found, texts, lengths, strict=True):
            own = [float(one.prompt_logprobs[at][ids[at]].logprob) for at in range(len(ids) - length, len(ids))]
            sums.append(sum(own))
            ends.append(own[-1])
        return OptionScores(
            torch.tensor(sums, dtype=torch.float64),
            torch.tensor(lengths),
            rows.cpu(),
            torch.tensor(ends, dtype=torch.float64),
        )

    def _sampling(self, view: View, max_new_tokens: int) -> Body | list[Body]:
        """Sampling parameters of all rows, or of each row if a seed is set: the row's, whatever its batch is."""
        shared: Body = {"max_tokens": max_new_tokens, **self.hosting.sampling}
        seed = self.hosting.seed
        if seed is None or self.why_alike is not None:
            return shared
        return [{**shared, "seed": seed_of(seed, key)} for key in keys_of_rows(view)]

    def _run(self, prompts: Sequence[list[int]], settings: Body | list[Body]) -> list[Any]:
        if self._engine is None:
            raise RuntimeError(f"backbone: {self.name} is not loaded; call `load()` first")
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        make = self._vllm.SamplingParams
        parameters = [make(**one) for one in settings] if isinstance(settings, list) else make(**settings)
        return list(self._engine.generate(asked, parameters, use_tqdm=False))
