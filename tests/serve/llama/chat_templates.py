"""Chat templates in the forms that widely used models have: what matters of them for a training."""

from __future__ import annotations

# Qwen3: an empty thought opens the answer when thinking is off; of the history, thoughts are taken out.
QWEN3 = r"""{%- set seen = namespace(question=-1) %}
{%- for message in messages %}
    {%- if message.role == "user" %}{% set seen.question = loop.index0 %}{% endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content, thought = message.content, "" %}
    {%- if message.role == "assistant" %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif "</think>" in content %}
            {%- set thought = content.split("</think>")[0].split("<think>")[-1] %}
            {%- set content = content.split("</think>")[-1].lstrip("\n") %}
        {%- endif %}
        {%- if loop.index0 > seen.question and (loop.last or thought) %}
            {%- set content = "<think>\n" + thought.strip("\n") + "\n</think>\n\n" + content.lstrip("\n") %}
        {%- endif %}
    {%- endif %}
    {{- "<|im_start|>" + message.role + "\n" + content + "<|im_end|>\n" }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|im_start|>assistant\n" }}
    {%- if enable_thinking is defined and not enable_thinking %}{{ "<think>\n\n</think>\n\n" }}{% endif %}
{%- endif %}"""

# Mistral, Llama 2: no mark opens an answer, and a space stands before it once it is history.
MISTRAL = r"""{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == "user" %}
        {{- "[INST] " + message.content + " [/INST]" }}
    {%- elif message.role == "assistant" %}
        {{- " " + message.content + eos_token }}
    {%- else %}
        {{- message.content + "\n" }}
    {%- endif %}
{%- endfor %}"""

# Llama 3: every text is trimmed.
LLAMA3 = r"""{{- bos_token }}
{%- for message in messages %}
    {{- "[" + message.role + "]\n\n" + message.content | trim + eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}{{ "[assistant]\n\n" }}{% endif %}"""

# TinyLlama: marks of plain text.
TINYLLAMA = r"""{%- for message in messages %}
    {{- "<|" + message.role + "|>\n" + message.content + eos_token + "\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{ "<|assistant|>\n" }}{% endif %}"""
