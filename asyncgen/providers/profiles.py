"""Provider profiles: the named providers, and the choice among them.

A profile holds what differs between OpenAI-compatible providers (addresses, key variables, abilities, quirks), so that
a new provider takes a profile and no code. Also the default number of epochs by training set size, in two rules
(OpenAI's, and that of the trainer on this machine), shared by estimates and trainings. Connections and prices are left
to others.

Sources, read in November 2026: OpenAI's API description and deprecations page; Microsoft's fine-tuning pages for
Foundry; Nebius Token Factory's and Crusoe's fine-tuning pages; Together's OpenAPI description.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_USUAL = 3
# Samples times epochs: below the first number there are more epochs than usual, up to the third; above the second there
# are fewer.
_FEWEST, _MOST, _MOST_EPOCHS = 100, 25_000, 25
_FEWEST_LOCAL, _MOST_LOCAL, _MOST_EPOCHS_LOCAL = 300, 6000, 10  # a sample takes about a quarter of a second


def usual_epochs(samples: int) -> int:
    """Default number of epochs by OpenAI's rule, from its data preparation notebook.

    Args:
        samples: size of the training set.

    Returns:
        The number of epochs, at least 1.
    """
    if samples * _USUAL < _FEWEST:
        return min(_MOST_EPOCHS, _FEWEST // max(samples, 1))
    return min(_USUAL, max(1, _MOST // samples))


def local_epochs(samples: int) -> int:
    """Default number of epochs of the trainer on this machine. It rounds up where OpenAI's rule rounds down.

    Args:
        samples: size of the training set.

    Returns:
        The number of epochs, 1 to 10.
    """
    if samples * _USUAL < _FEWEST_LOCAL:
        return min(_MOST_EPOCHS_LOCAL, -(-_FEWEST_LOCAL // max(samples, 1)))
    return min(_USUAL, max(1, _MOST_LOCAL // samples))


Outcome = Literal["succeeded", "failed", "cancelled"]

_MEGABYTE = 1024 * 1024


def _openai_outcomes() -> Mapping[str, Outcome]:
    return {"succeeded": "succeeded", "failed": "failed", "cancelled": "cancelled"}


class Finetuning(msgspec.Struct, frozen=True, kw_only=True):
    """How a provider tunes.

    Attributes:
        api: "openai" for `/files` and `/fine_tuning/jobs`; "together" and "fireworks" for these providers' own paths.
        default_model: the model to tune if the job names none; None if the provider has no default.
        new_customers: whether somebody who never tuned there can start a job today.
        until: last day on which jobs can be created; None if no end is announced.
        outcomes: final state of a job to its outcome. Any other state, known or not, means that the job still runs.
        methods: accepted training methods, by our names.
        hyperparameters_in: where they are in the request: under the method, or at the top level without a method.
        hyperparameters: accepted names; empty if they are not known, and all are passed on.
        default_hyperparameters: sent unless the job sets them, because the provider's own defaults do not suit.
        fields: further fields of the request. A hyperparameter of the same name replaces the value.
        default_epochs: number of epochs if the job sets none; None to choose it by the number of samples.
        epochs_by_samples: number of samples to number of epochs.
        metadata: whether jobs keep the metadata that is sent, and return it.
        byte_order_mark: whether the training file must begin with one; otherwise it must not.
        suffix_pattern: regular expression that a suffix must match as a whole.
        suffix_rule: the pattern in plain words, for messages.
        formats: accepted dataset formats, by our names.
        message_fields: further accepted fields of an assistant message, such as the reasoning.
        min_samples: smallest accepted training set.
        max_bytes: largest accepted training file.
        max_sample_tokens: tokens after which a sample is truncated without notice; None if the limit is unknown.
        next_step: what the user must do after success before the model answers, with the placeholders `{job}` and
            `{model}`; "" if it answers at once.
        free: whether a job costs nothing.
        gives_weights: whether the weights of a tuned model can be downloaded.
    """

    api: Literal["openai", "together", "fireworks"] = "openai"
    default_model: str | None = None
    new_customers: bool = True
    until: date | None = None
    outcomes: Mapping[str, Outcome] = msgspec.field(default_factory=_openai_outcomes)
    methods: tuple[str, ...] = ("supervised", "dpo")
    hyperparameters_in: Literal["method", "top"] = "method"
    hyperparameters: tuple[str, ...] = ()
    default_hyperparameters: Mapping[str, Any] = msgspec.field(default_factory=dict)
    fields: Mapping[str, Any] = msgspec.field(default_factory=dict)
    default_epochs: int | None = None
    epochs_by_samples: Callable[[int], int] = usual_epochs
    metadata: bool = True
    byte_order_mark: bool = False
    suffix_pattern: str = r".{1,64}"
    suffix_rule: str = "1 to 64 characters"
    formats: tuple[str, ...] = ("chat",)
    message_fields: tuple[str, ...] = ()
    min_samples: int = 10
    max_bytes: int = 512 * _MEGABYTE
    max_sample_tokens: int | None = None
    next_step: str = ""
    free: bool = False
    gives_weights: bool = True


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A provider with an OpenAI-compatible API.

    Attributes:
        name: as in job files and flags.
        title: as in messages.
        base_url: up to and including the version, without a trailing slash; None if each user has their own.
        key_variable: environment variable of the API key; None if no key is needed.
        key_optional: whether requests can be sent without a key.
        base_url_variable: environment variable that sets or replaces the address; None if there is none.
        base_url_path: end of every address; appended to the variable's value if it is missing.
        other_urls: further addresses, which share the requests of a generation.
        headers: sent with every request; never the key.
        allow_http: whether the user allowed to send the key unencrypted.
        default_model: the model to ask if the job names none; None if the provider has no default.
        max_tokens_name: the parameter that limits the tokens of an answer.
        starts_within_s: seconds to wait for its server at the start of a run; None to decide by its address.
        continues_assistant: whether a last assistant message is taken as the beginning of the answer.
        batch: whether it has the Batch API.
        flex: whether it has `service_tier = "flex"`, at half the price.
        request_limit_header: header with the requests per minute; None for the usual one.
        token_limit_header: header with the tokens per minute; None for the usual one.
        concurrency: requests in flight at the start; None for the usual number.
        by_name_only: whether it is chosen only when it is named, never because its key is set.
        finetuning: how it tunes; None if it does not.
        notes: a sentence for the user.
    """

    name: str
    title: str
    base_url: str | None
    key_variable: str | None
    key_optional: bool = False
    base_url_variable: str | None = None
    base_url_path: str = ""
    other_urls: tuple[str, ...] = ()
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    allow_http: bool = False
    default_model: str | None = None
    max_tokens_name: Literal["max_completion_tokens", "max_tokens"] = "max_tokens"
    starts_within_s: float | None = None
    continues_assistant: bool = False
    batch: bool = False
    flex: bool = False
    request_limit_header: str | None = None
    token_limit_header: str | None = None
    concurrency: int | None = None
    by_name_only: bool = False
    finetuning: Finetuning | None = None
    notes: str = ""

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses in the profile, the main one first."""
        return (self.base_url, *self.other_urls) if self.base_url else ()


LOCAL = "local"

_PROFILES = (
    Profile(
        name="openai",
        title="OpenAI",
        base_url="https://api.openai.com/v1",
        key_variable="OPENAI_API_KEY",
        base_url_variable="OPENAI_BASE_URL",
        default_model="gpt-6-luna",
        max_tokens_name="max_completion_tokens",
        batch=True,
        flex=True,
        finetuning=Finetuning(
            default_model="gpt-4.1-mini-2025-04-14",
            new_customers=False,
            until=date(2027, 1, 6),
            hyperparameters=("n_epochs", "batch_size", "learning_rate_multiplier", "beta"),
            max_sample_tokens=65_536,
            gives_weights=False,
        ),
        notes="Fine-tuning only for organizations that used a tuned model in the 60 days before 2 July 2026; tuned "
        "GPT-4.x models end on 14 January 2027.",
    ),
    Profile(
        name="azure",
        title="Azure OpenAI (Microsoft Foundry)",
        base_url=None,
        key_variable="AZURE_OPENAI_API_KEY",
        base_url_variable="AZURE_OPENAI_ENDPOINT",
        base_url_path="/openai/v1",
        max_tokens_name="max_completion_tokens",
        batch=True,
        finetuning=Finetuning(
            default_model="gpt-4.1-mini-2025-04-14",
            fields={"trainingType": "GlobalStandard"},
            byte_order_mark=True,
            max_sample_tokens=65_536,
            gives_weights=False,
            suffix_pattern=r"[^.]{1,64}",
            suffix_rule="1 to 64 characters without a dot",
            next_step="deploy {model} in the Foundry portal, or with `az cognitiveservices account deployment "
            "create`; then use the deployment's name as the model (hosting is billed by the hour, and idle "
            "deployments are deleted after 15 days)",
        ),
        notes="The model is the name of a deployment. trainingType (Standard, GlobalStandard, developerTier) is a "
        "hyperparameter.",
    ),
    Profile(
        name="nebius",
        title="Nebius Token Factory",
        base_url="https://api.tokenfactory.nebius.com/v1",
        key_variable="NEBIUS_API_KEY",
        base_url_variable="NEBIUS_BASE_URL",
        default_model="meta-llama/Meta-Llama-3.1-8B-Instruct",
        batch=True,
        finetuning=Finetuning(
            default_model="meta-llama/Meta-Llama-3.1-8B-Instruct",
            methods=("supervised",),
            hyperparameters_in="top",
            hyperparameters=(
                "n_epochs",
                "batch_size",
                "learning_rate",
                "context_length",
                "packing",
                "lora",
                "lora_r",
                "lora_alpha",
                "lora_dropout",
                "warmup_ratio",
                "weight_decay",
                "max_grad_norm",
            ),
            # Otherwise the whole model is trained, and only adapters can be served without dedicated hardware.
            default_hyperparameters={"lora": True},
            default_epochs=3,
            formats=("chat", "completion"),
            max_bytes=5 * 1024 * _MEGABYTE,
            max_sample_tokens=8192,  # the default of the hyperparameter context_length
            next_step="register a checkpoint of {job} as a model (POST https://api.tokenfactory.nebius.com/v0/models "
            'with {{"source": "{job}:CHECKPOINT", "base_model": ..., "name": ...}}); then use the name from '
            "the registration as the model",
        ),
        notes="Serves adapters of Llama-3.1-8B-Instruct and Llama-3.3-70B-Instruct at the base model's price.",
    ),
    Profile(
        name="crusoe",
        title="Crusoe Intelligence Foundry",
        base_url="https://api.intelligence.crusoecloud.com/v1",
        key_variable="CRUSOE_API_KEY",
        base_url_variable="CRUSOE_BASE_URL",
        finetuning=Finetuning(
            methods=("supervised",),
            metadata=False,
            max_bytes=3 * 1024 * _MEGABYTE,
            next_step="serve the adapter of {job}: as a self-serve deployment in the console, or on your own server "
            "with its downloaded files",
        ),
        notes="Fine-tunes LoRA adapters of open-weight models.",
    ),
    Profile(
        name="together",
        title="Together AI",
        base_url="https://api.together.ai/v1",
        key_variable="TOGETHER_API_KEY",
        base_url_variable="TOGETHER_BASE_URL",
        default_model="Qwen/Qwen3.5-9B",
        finetuning=Finetuning(
            api="together",
            default_model="meta-llama/Meta-Llama-3.1-8B-Instruct-Reference",
            outcomes={
                "completed": "succeeded",
                "error": "failed",
                "user_error": "failed",
                "cancelled": "cancelled",
            },
            hyperparameters=(
                "n_epochs",
                "n_checkpoints",
                "n_evals",
                "batch_size",
                "learning_rate",
                "lr_scheduler",
                "warmup_ratio",
                "max_grad_norm",
                "weight_decay",
                "training_type",
                "train_on_inputs",
                "beta",
            ),
            default_epochs=1,
            metadata=False,
            suffix_pattern=r"[A-Za-z0-9_.-]{1,40}",
            suffix_rule="1 to 40 letters, digits, '_', '.' or '-'",
            formats=("chat", "completion"),
            min_samples=1,
            max_bytes=5 * 1024 * _MEGABYTE,
            next_step="start a dedicated endpoint for {model} (https://api.together.ai/endpoints); it is billed by "
            "the minute until it is stopped",
        ),
        notes="Tuned models need a dedicated endpoint, billed by the minute.",
    ),
    Profile(
        name="custom",
        title="your own server",
        base_url=None,
        key_variable="ASYNCGEN_API_KEY",
        key_optional=True,
        batch=True,
        finetuning=Finetuning(
            formats=("chat", "completion"),
            message_fields=("reasoning_content", "thinking"),  # depends on the model; the server refuses others
            metadata=False,
            min_samples=1,
        ),
        notes="Any OpenAI-compatible server: set its address, up to /v1, with --base-url or ASYNCGEN_BASE_URL.",
    ),
    Profile(
        name=LOCAL,
        title="the local server",
        base_url=None,
        key_variable=None,
        default_model="smollm2-135m-instruct",
        continues_assistant=True,
        batch=True,
        finetuning=Finetuning(
            default_model="smollm2-135m-instruct",
            methods=("supervised",),
            hyperparameters=("n_epochs", "batch_size", "learning_rate_multiplier"),
            epochs_by_samples=local_epochs,
            formats=("chat", "completion"),
            max_sample_tokens=1024,  # in the model's own tokens; fewer if its context is shorter
            free=True,
        ),
        notes="Needs no key and is free; starts on demand.",
    ),
    # The following are chosen by name only. None has a default model: model names change within weeks, and
    # `asyncgen doctor` lists those of an address.
    # openrouter.ai/docs: api-reference/errors (errors within a 200, `metadata`), use-cases/usage-accounting (`cost` in
    # every usage), api-reference/limits (no headers of limits).
    Profile(
        name="openrouter",
        title="OpenRouter",
        base_url="https://openrouter.ai/api/v1",
        key_variable="OPENROUTER_API_KEY",
        base_url_variable="OPENROUTER_BASE_URL",
        by_name_only=True,
        notes="Reports the cost of every answer. Its list of models is public.",
    ),
    # console.groq.com/docs: rate-limits (x-ratelimit-limit-requests is a day's, -tokens a minute's), openai.
    Profile(
        name="groq",
        title="Groq",
        base_url="https://api.groq.com/openai/v1",
        key_variable="GROQ_API_KEY",
        base_url_variable="GROQ_BASE_URL",
        max_tokens_name="max_completion_tokens",
        token_limit_header="x-ratelimit-limit-tokens",  # noqa: S106 - a header's name
        by_name_only=True,
        notes="The request limit in its headers is per day; the token limit is per minute.",
    ),
    # api-docs.deepseek.com: quick_start/rate_limit (blank lines while it waits, for up to 30 minutes; no limits in
    # headers), guides/reasoning_model (`reasoning_content`), guides/kv_cache (`prompt_cache_hit_tokens`).
    Profile(
        name="deepseek",
        title="DeepSeek",
        base_url="https://api.deepseek.com/v1",
        key_variable="DEEPSEEK_API_KEY",
        base_url_variable="DEEPSEEK_BASE_URL",
        by_name_only=True,
        notes="When it is busy, an answer can take up to 30 minutes. Thinking models ignore temperature.",
    ),
    # docs.mistral.ai/api (max_tokens alone, random_seed; an unknown parameter is a 422). The names of the headers are
    # from users' reports, not from the documentation.
    Profile(
        name="mistral",
        title="Mistral AI",
        base_url="https://api.mistral.ai/v1",
        key_variable="MISTRAL_API_KEY",
        base_url_variable="MISTRAL_BASE_URL",
        request_limit_header="x-ratelimit-limit-req-minute",
        token_limit_header="x-ratelimit-limit-tokens-minute",  # noqa: S106 - a header's name
        by_name_only=True,
        notes="Refuses unknown parameters; its seed is called random_seed.",
    ),
    # ai.google.dev/gemini-api/docs: openai, rate-limits (no headers; the wait stands in the error's details).
    Profile(
        name="gemini",
        title="Google Gemini",
        base_url="https://generativelanguage.googleapis.com/v1beta/openai",
        key_variable="GEMINI_API_KEY",
        base_url_variable="GEMINI_BASE_URL",
        max_tokens_name="max_completion_tokens",
        by_name_only=True,
        notes="The free tier has a daily limit, after which a run stops.",
    ),
    # platform.claude.com/docs: api/openai-sdk (what is ignored), api/rate-limits (anthropic-ratelimit-requests-limit, a
    # minute's; tokens of input and output have limits of their own, which one bound of both cannot keep).
    Profile(
        name="anthropic",
        title="Anthropic",
        base_url="https://api.anthropic.com/v1",
        key_variable="ANTHROPIC_API_KEY",
        base_url_variable="ANTHROPIC_BASE_URL",
        request_limit_header="anthropic-ratelimit-requests-limit",
        by_name_only=True,
        notes="Its OpenAI-compatible API is for testing: response_format, seed and logprobs are ignored, thinking "
        "is not shown, and a temperature above 1 counts as 1.",
    ),
    # docs.fireworks.ai: tools-sdks/openai-compatibility; serverless/rate-limits (limits of input and of output tokens
    # apart, which adapt to the use: nothing that one bound a minute could hold to); fine-tuning: see
    # `finetune.fireworks`.
    Profile(
        name="fireworks",
        title="Fireworks AI",
        base_url="https://api.fireworks.ai/inference/v1",
        key_variable="FIREWORKS_API_KEY",
        base_url_variable="FIREWORKS_BASE_URL",
        by_name_only=True,
        finetuning=Finetuning(
            api="fireworks",
            default_model="accounts/fireworks/models/llama-v3p1-8b-instruct",
            methods=("supervised",),
            outcomes={
                "JOB_STATE_COMPLETED": "succeeded",
                "JOB_STATE_EARLY_STOPPED": "succeeded",
                "JOB_STATE_FAILED": "failed",
                "JOB_STATE_EXPIRED": "failed",
                "JOB_STATE_CANCELLED": "cancelled",
            },
            hyperparameters=(
                "n_epochs",
                "learning_rate",
                "lora_rank",
                "batch_size",
                "max_context_length",
                "early_stop",
                "gradient_accumulation_steps",
                "learning_rate_warmup_steps",
            ),
            default_epochs=1,
            metadata=False,
            min_samples=3,
            max_bytes=150 * _MEGABYTE,  # of an upload in one piece
            next_step="start a deployment for it (firectl deployment create {model}); it is billed by the second "
            "until it is deleted",
        ),
        notes="Model names are complete: accounts/fireworks/models/NAME. Tuned models need a dedicated deployment, "
        "billed by the second.",
    ),
    # inference-docs.cerebras.ai/support/rate-limits (max_completion_tokens is reserved before the request is done;
    # tokens a minute and requests a day in headers).
    Profile(
        name="cerebras",
        title="Cerebras",
        base_url="https://api.cerebras.ai/v1",
        key_variable="CEREBRAS_API_KEY",
        base_url_variable="CEREBRAS_BASE_URL",
        max_tokens_name="max_completion_tokens",
        token_limit_header="x-ratelimit-limit-tokens-minute",  # noqa: S106 - a header's name
        by_name_only=True,
        notes="Counts max_tokens against the rate limit in advance: do not set it too high.",
    ),
    # docs.x.ai/docs: api-reference, guides/reasoning (no stop and no penalties). Its limit headers were not verified.
    Profile(
        name="xai",
        title="xAI",
        base_url="https://api.x.ai/v1",
        key_variable="XAI_API_KEY",
        base_url_variable="XAI_BASE_URL",
        max_tokens_name="max_completion_tokens",
        by_name_only=True,
        notes="Its reasoning models refuse stop and penalty parameters.",
    ),
    # docs.ollama.com: api/openai-compatibility, faq (OLLAMA_NUM_PARALLEL).
    Profile(
        name="ollama",
        title="Ollama",
        base_url="http://127.0.0.1:11434/v1",
        key_variable="OLLAMA_API_KEY",
        key_optional=True,
        base_url_variable="OLLAMA_BASE_URL",
        concurrency=4,
        by_name_only=True,
        notes="Answers OLLAMA_NUM_PARALLEL requests at once; set --concurrency to the same number.",
    ),
    # docs.vllm.ai: serving/openai_compatible_server (--api-key; continue_final_message with add_generation_prompt =
    # false continues an answer), features/reasoning_outputs.
    Profile(
        name="vllm",
        title="vLLM",
        base_url="http://127.0.0.1:8000/v1",
        key_variable="VLLM_API_KEY",
        key_optional=True,
        base_url_variable="VLLM_BASE_URL",
        by_name_only=True,
        notes="Continues an answer with the parameters continue_final_message = true and add_generation_prompt = false "
        "(and continues_assistant = true for it in providers.toml).",
    ),
    # lmstudio.ai/docs/developer/openai-compat.
    Profile(
        name="lmstudio",
        title="LM Studio",
        base_url="http://127.0.0.1:1234/v1",
        key_variable="LMSTUDIO_API_KEY",
        key_optional=True,
        base_url_variable="LMSTUDIO_BASE_URL",
        concurrency=4,
        by_name_only=True,
    ),
    # github.com/ggml-org/llama.cpp, tools/server/README.md (--api-key, --parallel; a last message of the assistant is
    # continued).
    Profile(
        name="llamacpp",
        title="llama.cpp's server",
        base_url="http://127.0.0.1:8080/v1",
        key_variable="LLAMA_API_KEY",
        key_optional=True,
        base_url_variable="LLAMACPP_BASE_URL",
        continues_assistant=True,
        concurrency=8,
        by_name_only=True,
    ),
    # docs.litellm.ai/docs/proxy: user_keys, batches; limits in headers are those of the server behind it.
    Profile(
        name="litellm",
        title="LiteLLM proxy",
        base_url="http://127.0.0.1:4000/v1",
        key_variable="LITELLM_API_KEY",
        key_optional=True,
        base_url_variable="LITELLM_BASE_URL",
        batch=True,
        by_name_only=True,
        notes="Forwards requests to the servers in its configuration; use the model names from there.",
    ),
)
PROFILES: Mapping[str, Profile] = {profile.name: profile for profile in _PROFILES}


@dataclass(frozen=True, slots=True)
class ProviderChoice:
    """The chosen provider.

    Attributes:
        profile: its profile.
        why: the reason in a few words, for the first line on stderr.
    """

    profile: Profile
    why: str = field(compare=False)
