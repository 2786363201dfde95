"""Chat templates of well-known model families, for tests.

They are written for this project, after what the families' published templates write: the same special tokens, the same
places of system message, blanks and end tokens, the same refusals. Tools, documents and images are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from transformers import AutoTokenizer

from robustlm.assets import tiny_model

_TURNS = (
    "{% for m in turns %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
)
_SPLIT = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = none %}{% set turns = messages %}{% endif %}"
)


def _role_based(before: str, after: str, assistant: str = "assistant", trim: str = "m.content | trim") -> str:
    """A template that writes `before`, role, `after` and text of each message; END stands in `before` of the next."""
    return (
        "{% for m in messages %}{% set role = '"
        + assistant
        + "' if m.role == 'assistant' else m.role %}"
        + before
        + "{{ role }}"
        + after.replace("TEXT", "{{ " + trim + " }}")
        + "{% endfor %}{% if add_generation_prompt %}"
        + before
        + assistant
        + after.partition("TEXT")[0]
        + "{% endif %}"
    )


@dataclass(frozen=True)
class Family:
    """A chat template, and what is known about it."""

    template: str
    specials: tuple[str, ...]
    end: str
    """The text that ends a reply."""
    eos: str | None = None
    """The tokenizer's end token; null: `end` without white space."""
    bos: str | None = None
    takes_system: bool = True
    keeps: bool = True
    """Whether the reply in a longer chat is written as when it is the last one."""
    variables: dict[str, Any] = field(default_factory=dict)


LLAMA_3 = Family(
    "{% for m in messages %}{{ bos_token if loop.first }}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "<|eot_id|>",
    bos="<|begin_of_text|>",
)
LLAMA_2 = Family(
    _SPLIT + _TURNS + "{% if m.role == 'user' %}{{ bos_token }}[INST] "
    "{% if loop.first and system is not none %}<<SYS>>\n{{ system }}\n<</SYS>>\n\n{% endif %}"
    "{{ m.content | trim }} [/INST]{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}",
    ("<s>", "</s>"),
    " </s>",
    bos="<s>",
)
MISTRAL = Family(  # v3: the system message stands in the last question
    "{{ bos_token }}" + _SPLIT + _TURNS + "{% if m.role == 'user' %}[INST] "
    "{% if loop.last and system is not none %}{{ system }}\n\n{% endif %}{{ m.content }}[/INST]"
    "{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}",
    ("<s>", "</s>", "[INST]", "[/INST]"),
    "</s>",
    bos="<s>",
)
QWEN_2_5 = Family(
    "{% if messages[0].role != 'system' %}<|im_start|>system\n"
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    "<|im_end|>\n",
)
QWEN_3 = Family(  # thoughts of replies before the last question are left out; the last reply always has some
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role != 'assistant' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% else %}{% set text = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{% set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\n') if '</think>' in m.content %}"
    "<|im_start|>assistant\n{% if loop.index0 > ns.last %}<think>\n{{ thought }}\n</think>\n\n{% endif %}"
    "{{ text }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
    ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    "<|im_end|>\n",
    keeps=False,
    variables={"enable_thinking": False},
)
GEMMA = Family(
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + _role_based("<start_of_turn>", "\nTEXT<end_of_turn>\n", "model"),
    ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
    "<end_of_turn>\n",
    eos="<eos>",
    bos="<bos>",
    takes_system=False,
)
PHI_3 = Family(
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
    ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"),
    "<|end|>\n",
    eos="<|endoftext|>",
)
PHI_4 = Family(
    "{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}",
    ("<|im_start|>", "<|im_sep|>", "<|im_end|>"),
    "<|im_end|>",
)
CHATML = Family(
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ("<|im_start|>", "<|im_end|>"),
    "<|im_end|>\n",
)
ZEPHYR = Family(
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    ("<s>", "</s>"),
    "</s>\n",
)
TULU = Family(  # Tülu 3 and OLMo 2: no line break after the end of the last reply
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% if m.role != 'assistant' or not loop.last %}{{ '\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    ("<|endoftext|>",),
    "<|endoftext|>\n",
    bos="<|endoftext|>",
)
DEEPSEEK = Family(  # R1 and its distillations: a prompt opens the thought, and earlier thoughts are left out
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}<｜User｜>{{ m.content }}"
    "{% else %}<｜Assistant｜>{{ m.content.split('</think>')[-1] }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}",
    ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
    "<｜end▁of▁sentence｜>",
    bos="<｜begin▁of▁sentence｜>",
    keeps=False,
)
GRANITE = Family(
    "{% for m in messages %}<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}<|end_of_text|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}",
    ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
    "<|end_of_text|>\n",
)
COMMAND_R = Family(
    "{{ bos_token }}"
    + _SPLIT
    + "{% if system is not none %}<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{{ system }}<|END_OF_TURN_TOKEN|>{% endif %}"
    + _TURNS
    + "<|START_OF_TURN_TOKEN|>{% if m.role == 'user' %}<|USER_TOKEN|>{% else %}<|CHATBOT_TOKEN|>{% endif %}"
    "{{ m.content | trim }}<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}",
    (
        *("<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>"),
        "<|CHATBOT_TOKEN|>",
    ),
    "<|END_OF_TURN_TOKEN|>",
    bos="<BOS_TOKEN>",
)
MARKED = Family(  # ChatML with the marks of transformers around what a model writes
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ("<|im_start|>", "<|im_end|>"),
    "<|im_end|>\n",
)
FAMILIES = {
    name.lower().replace("_", "-"): found for name, found in list(globals().items()) if isinstance(found, Family)
}


@lru_cache
def speaking(name: str) -> Any:
    """The shipped tokenizer with the special tokens and the chat template of a family."""
    family = FAMILIES[name]
    tokenizer: Any = AutoTokenizer.from_pretrained(str(tiny_model()))
    tokenizer.add_special_tokens({"additional_special_tokens": list(family.specials)})
    tokenizer.eos_token = family.eos or family.end.strip()
    if family.bos:
        tokenizer.bos_token = family.bos
    tokenizer.chat_template = family.template
    return tokenizer
