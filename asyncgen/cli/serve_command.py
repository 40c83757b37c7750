"""`asyncgen serve`: the local server.

Parses the options; the server is imported only when it runs.
"""

from __future__ import annotations

import asyncio
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from asyncgen.cli.loop import interruptible, run
from asyncgen.cli.options import output_options
from asyncgen.cli.output import is_quiet, json_result, result, say
from asyncgen.errors import UsageError
from asyncgen.providers.endpoint import key_file_warning, key_from_file

if TYPE_CHECKING:
    from asyncgen.generate.observer import Interrupt
    from asyncgen.providers.endpoint import Secret
    from asyncgen.providers.local_server import ServerInfo
    from asyncgen.serve.server import ServeSettings
    from asyncgen.serve.simulation.engine import SimulationSettings

_PORT = 8093
_SIMULATED_ONLY = ("latency_ms", "rpm", "tpm", "fault", "seed", "reasoning", "training_s")
_LLAMA_ONLY = ("model_path", "slots", "threads", "lora_rank", "lora_layers")


@click.command("serve")
@click.option(
    "--engine",
    type=click.Choice(["llama", "simulated"]),
    default="llama",
    show_default=True,
    help="A real model, or simulated answers.",
)
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=_PORT,
    show_default=True,
    metavar="N",
    help="The port; 0 for any free port.",
)
@click.option(
    "--allow-host",
    multiple=True,
    metavar="NAME[:PORT]",
    help="Another host name of the server, such as a container's; can be repeated.",
)
@click.option(
    "--allow-origin",
    multiple=True,
    metavar="ORIGIN",
    help="A web origin that may use the server (CORS), such as http://localhost:3000; can be repeated.",
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Require the API key in this file.  [default: no key]",
)
@click.option("--log", is_flag=True, help="Log every request.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The folder for files, jobs and tuned models.  [default: the user's data folder; simulated: none]",
)
@click.option(
    "--model-path",
    type=click.Path(path_type=Path),
    envvar="ASYNCGEN_MODEL_PATH",
    metavar="GGUF",
    help="llama: the model file.  [default: a small model, downloaded once]",
)
@click.option(
    "--trainer",
    default="numpy",
    envvar="ASYNCGEN_TRAINER",
    metavar="NAME|COMMAND",
    help="The trainer: numpy (built in), trl, or a command that takes a folder.  [default: numpy]",
)
@click.option(
    "--slots",
    type=click.IntRange(1, 64),
    default=8,
    metavar="N",
    help="llama: answers generated at once.  [default: 8]",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    metavar="N",
    help="llama: CPU threads.  [default: all]",
)
@click.option(
    "--lora-rank",
    type=click.IntRange(1, 256),
    default=16,
    envvar="ASYNCGEN_LORA_RANK",
    metavar="N",
    help="llama: the rank of the LoRA adapters.  [default: 16]",
)
@click.option(
    "--lora-layers",
    type=click.IntRange(1, 1000),
    default=12,
    envvar="ASYNCGEN_LORA_LAYERS",
    metavar="N",
    help="llama: fine-tune only the last N layers.  [default: 12]",
)
@click.option("--latency-ms", type=click.FloatRange(0), metavar="MS", help="simulated: the time per answer.")
@click.option(
    "--rpm", type=click.FloatRange(0, min_open=True), metavar="N", help="simulated: the limit of requests per minute."
)
@click.option(
    "--tpm", type=click.FloatRange(0, min_open=True), metavar="N", help="simulated: the limit of tokens per minute."
)
@click.option("--fault", multiple=True, metavar="NAME=PROBABILITY", help="simulated: inject a fault; can be repeated.")
@click.option("--reasoning", is_flag=True, help="simulated: add reasoning to answers, unless a request turns it off.")
@click.option(
    "--training-s",
    type=click.FloatRange(0, min_open=True),
    metavar="S",
    help="simulated: the time per training.  [default: a few seconds at most]",
)
@click.option("--seed", type=int, metavar="N", help="simulated: the seed of the faults.  [default: 0]")
@click.option("--until-idle", is_flag=True, hidden=True)
@output_options
def serve(as_json: bool, **options: Any) -> int | None:
    """Run an OpenAI-compatible server on this machine, fine-tuning included, until Ctrl-C.

    Without --model-path, a small model is downloaded once. With --engine simulated there is no model: answers and
    trainings are simulated, for tests.
    """
    settings = _settings(options)
    return run(_serve(settings, key_file=options["api_key_file"], as_json=as_json))


async def _serve(settings: ServeSettings, *, key_file: Path | None, as_json: bool) -> int | None:
    from asyncgen.serve.server import serve as run_server  # noqa: PLC0415 - imports aiohttp

    def started(info: ServerInfo) -> None:
        if as_json:
            json_result(msgspec.structs.asdict(info))
        elif is_quiet():
            result(info.base_url)  # with --port 0, the port is not known otherwise
        if not settings.until_idle:  # another command started it, so its user sends no requests by hand
            say(f"try:  {_curl(info, key_file)}")
            say(f"use:  {_export(info, key_file)}     (Ctrl-C stops the server)")

    async with interruptible(lambda: say("stopping; Ctrl-C again drops the requests in flight")) as interrupt:
        server = asyncio.create_task(run_server(settings, stop=interrupt.stop, say=say, started=started))
        await _abandoning(server, interrupt)
        return interrupt.exit_code


def _curl(info: ServerInfo, key_file: Path | None) -> str:
    """A command that shows the server's first answer."""
    key = f' -H "Authorization: Bearer $(cat {shlex.quote(str(key_file))})"' if key_file else ""
    question = {"model": info.model, "messages": [{"role": "user", "content": "Say hello."}]}
    body = shlex.quote(json.dumps(question))
    return f"curl {info.base_url}/chat/completions{key} -H 'Content-Type: application/json' -d {body}"


def _export(info: ServerInfo, key_file: Path | None) -> str:
    """The shell command that makes other commands use this server."""
    key = f" ASYNCGEN_API_KEY_FILE={shlex.quote(str(key_file.absolute()))}" if key_file else ""
    model = shlex.quote(info.model)
    return f"export ASYNCGEN_BASE_URL={info.base_url} ASYNCGEN_MODEL={model} ASYNCGEN_FINETUNE_MODEL={model}{key}"


async def _abandoning(server: asyncio.Task[None], interrupt: Interrupt) -> None:
    """Wait for the server's end; the second signal cuts it short."""
    second = asyncio.create_task(interrupt.abandon.wait())
    await asyncio.wait([server, second], return_when=asyncio.FIRST_COMPLETED)
    second.cancel()
    if not server.done():
        server.cancel()
        await asyncio.wait([server])
        return
    server.result()


def _settings(options: dict[str, Any]) -> ServeSettings:
    from asyncgen.local_http import checked_host, checked_origin  # noqa: PLC0415 - as above
    from asyncgen.serve.server import ServeSettings  # noqa: PLC0415 - imports aiohttp
    from asyncgen.serve.tuning.trainers import trainer_command  # noqa: PLC0415 - as above

    simulated = options["engine"] == "simulated"
    _refuse_foreign(options, _LLAMA_ONLY if simulated else _SIMULATED_ONLY)
    return ServeSettings(
        host=options["host"],
        port=options["port"],
        allowed_hosts=frozenset(map(checked_host, options["allow_host"])),
        allowed_origins=frozenset(map(checked_origin, options["allow_origin"])),
        key=_key(options["api_key_file"]),
        log_requests=options["log"],
        data_dir=options["data_dir"],
        until_idle=options["until_idle"],
        simulation=_simulation(options) if simulated else None,
        trainer=trainer_command(options["trainer"]),
        model_path=options["model_path"],
        slots=options["slots"],
        threads=options["threads"],
        lora_rank=options["lora_rank"],
        lora_layers=options["lora_layers"],
    )


def _key(path: Path | None) -> Secret | None:
    if path is None:
        return None
    if warning := key_file_warning(path):
        say(warning)
    return key_from_file(path)


def _refuse_foreign(options: dict[str, Any], foreign: tuple[str, ...]) -> None:
    context = click.get_current_context()
    for name in foreign:
        if options[name] and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            flag = "--" + name.replace("_", "-")
            raise UsageError(
                f"{flag} has no effect on the engine {options['engine']}", help_text="asyncgen serve --help"
            )


def _simulation(options: dict[str, Any]) -> SimulationSettings:
    from asyncgen.serve.simulation.engine import SimulationSettings  # noqa: PLC0415 - imports aiohttp
    from asyncgen.serve.simulation.faults import parse_faults  # noqa: PLC0415 - as above

    return SimulationSettings(
        latency_s=(options["latency_ms"] or 0) / 1000,
        requests_per_minute=options["rpm"],
        tokens_per_minute=options["tpm"],
        faults=parse_faults(options["fault"]),
        seed=options["seed"] or 0,
        reasons=options["reasoning"],
        training_s=options["training_s"],
    )
