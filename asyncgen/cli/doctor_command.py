"""`asyncgen doctor`: is everything there for a run?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asyncgen.cli.options import endpoint_options, file_argument, output_options
from asyncgen.cli.output import json_result, result
from asyncgen.errors import AsyncgenError
from asyncgen.job.opened import open_named_job
from asyncgen.providers.choose import EndpointFlags, addressed_endpoint
from asyncgen.providers.profiles import LOCAL
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from asyncgen.cli.doctor_checks import Finding


@click.command("doctor")
@file_argument
@endpoint_options
@output_options
def doctor(file: Path | None, as_json: bool, **where: Any) -> int:
    """Check versions, disk, key, address, TLS, clock and model for FILE; pays nothing."""
    findings = _findings(file, EndpointFlags(**where))
    failed = any(finding.level == "fail" for finding in findings)
    if as_json:
        json_result({"ok": not failed, "checks": [finding.as_json() for finding in findings]})
        return int(failed)
    for finding in findings:
        result(f"{finding.level:4}  {finding.subject}: {finding.text}")
        if finding.next_step:
            result(f"      -> {finding.next_step}")
    return int(failed)


def _findings(file: Path | None, where: EndpointFlags) -> list[Finding]:
    from asyncgen.cli import doctor_checks as checks  # noqa: PLC0415 - imports aiohttp

    runs = Path("runs")
    findings = [*checks.versions(), *checks.disk(runs), *checks.run_lock(runs)]
    try:
        opened, generation, _ = open_named_job(file, where)
        text = f"{opened.file.label}: {counted(opened.grid.count, 'request')}, answered by {generation.profile.name}"
        findings.append(checks.Finding("ok", "job", f"{text} ({generation.why})"))
        if generation.profile.name == LOCAL and not where.addresses:
            return [*findings, *checks.local_model()]
        return [*findings, *checks.look_at_api(addressed_endpoint(generation, where, opened.model))]
    except AsyncgenError as error:
        cause = f": {error.cause}" if error.cause else ""
        return [*findings, checks.Finding("fail", "set-up", error.what + cause, error.help_text or "")]
