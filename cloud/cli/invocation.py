"""One run of the command: its settings, its output, the installation it opens, and who calls."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import ValidationError

from cloud.cli.output import Output
from cloud.cli.ports import Program, Runtime
from cloud.kernel.context import request_context
from cloud.kernel.errors import AuthenticationError, ConfigurationError, TenantIsolationError
from cloud.kernel.logs import configure_logs
from cloud.settings import CloudSettings

API_KEY_VARIABLE: Final = "LUMINESCENT_CLOUD_API_KEY"
CREDENTIAL_CHARACTERS: Final = 20_000
"""More than any credential that is accepted."""
_READABLE_BY_OTHERS: Final = 0o077
_THIS_HOST: Final = "127.0.0.1"

ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar=API_KEY_VARIABLE,
        show_envvar=True,
        metavar="KEY",
        help="API key or token to act with. Others can see it on a command line: prefer the variable or a file.",
    ),
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option("--api-key-file", exists=True, dir_okay=False, metavar="FILE", help="File with the API key or token."),
]
KeyTenant = Annotated[
    str | None,
    typer.Option("--tenant", metavar="TENANT", help="The API key's tenant; if given, it must be that one."),
]
UserId = Annotated[str, typer.Option("--user", metavar="USER", help="The person, as the application calls them.")]


@dataclass(frozen=True, slots=True)
class Invocation:
    """One run of the command.

    Attributes:
        program: What start-up lends.
        home: Home directory given on the command line.
        output: Where results and messages go.
    """

    program: Program
    home: Path | None
    output: Output

    def settings(self) -> CloudSettings:
        """Settings of the environment, with the home that the command line names.

        Raises:
            ConfigurationError: A setting cannot be used; names its variable.
        """
        try:
            return self.program.settings(home=self.home) if self.home is not None else self.program.settings()
        except ValidationError as exc:
            fault = exc.errors(include_input=False, include_url=False, include_context=False)[0]
            name = "_".join(str(part) for part in fault["loc"]).upper()
            which = f"setting LUMINESCENT_CLOUD_{name}" if name else "settings"
            # The error's own text quotes the value, and a setting may be a secret.
            raise ConfigurationError(f"{which}: {fault['msg'].removeprefix('Value error, ')}") from None

    @contextlib.contextmanager
    def opened(self, *, with_worker: bool = False) -> Iterator[Runtime]:
        """The installation, open; without a worker of its own unless the command leaves work for one."""
        settings = self.settings()
        configure_logs(settings.log_format, settings.log_level)
        if not with_worker:
            settings = settings.model_copy(update={"worker": "off"})
        with self.program.open(settings) as runtime:
            yield runtime


def invocation(context: typer.Context) -> Invocation:
    """The run that `context` belongs to."""
    found = context.obj
    assert isinstance(found, Invocation)
    return found


def somebody_can_be_asked() -> bool:
    """Whether a question would reach a person."""
    return sys.stdin.isatty()


@contextlib.contextmanager
def calling(
    context: typer.Context, api_key: str | None, api_key_file: Path | None, tenant: str | None
) -> Iterator[None]:
    """Everything inside runs as the holder of the API key or token: commands that show content or erase have no other
    caller. It comes from this host, so a key with ranges needs the loopback address among them.

    Raises:
        AuthenticationError: No API key was given.
    """
    key = _given_key(context, api_key, api_key_file)
    with request_context(authorization=f"Bearer {key}", tenant_id=tenant, client_address=_THIS_HOST):
        yield


def tenant_of_caller(runtime: Runtime, named: str | None) -> str:
    """The tenant of the present API key; the empty text where there is none, which every operation refuses."""
    # A key that does not hold is refused by the operation itself, which records the refusal; here nothing is decided.
    with contextlib.suppress(AuthenticationError, TenantIsolationError):
        return named or runtime.tenant_provider.get_tenant_id({}) or ""
    return named or ""


def read_credential(output: Output, path: Path) -> str:
    """The first line of a file that holds a credential; warns if others can read it."""
    with path.open(encoding="utf-8", errors="replace") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & _READABLE_BY_OTHERS:
            output.warn(f"other accounts can read {path}: chmod 600 {path}")
        return file.readline(CREDENTIAL_CHARACTERS).strip()


def _given_key(context: typer.Context, api_key: str | None, api_key_file: Path | None) -> str:
    output = invocation(context).output
    source = context.get_parameter_source("api_key")
    if source is not None and source.name == "COMMANDLINE":
        if api_key_file is not None:
            raise typer.BadParameter("give --api-key or --api-key-file, not both")
        output.warn(f"other accounts can see the key on this command line; prefer --api-key-file or {API_KEY_VARIABLE}")
    if api_key_file is not None:
        api_key = read_credential(output, api_key_file)
    if not api_key:
        raise AuthenticationError(
            "no_key",
            f"this command shows content or erases, so it needs an API key: --api-key-file or {API_KEY_VARIABLE}",
        )
    return api_key
