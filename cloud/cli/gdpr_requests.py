"""`luminescent-cloud gdpr`: requests for erasure from receipt to certificate, and legal holds."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import RenderableType

from cloud.cli.invocation import (
    ApiKey,
    ApiKeyFile,
    KeyTenant,
    UserId,
    calling,
    invocation,
    somebody_can_be_asked,
    tenant_of_caller,
)
from cloud.cli.moments import parse_moment
from cloud.cli.output import moment, table
from cloud.cli.progress import progress
from cloud.gdpr.model import Erasure, ErasurePreview, ErasureState, LegalHold

RequestId = Annotated[str, typer.Argument(metavar="REQUEST", help="Id of the request.", show_default=False)]
Reason = Annotated[str, typer.Option(help="Why, at most 1,000 characters; kept sealed.")]
_DAY_S = 86_400


def request(
    ctx: typer.Context,
    user: UserId,
    identity: Annotated[
        str | None,
        typer.Option(
            metavar="CODE", help="How the person was identified already, such as passport; no name, no number."
        ),
    ] = None,
    received: Annotated[
        datetime | None,
        typer.Option(parser=parse_moment, metavar="TIME", help="When the person asked, if earlier than now."),
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why, such as a request's number; kept sealed.")] = None,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Keep a person's request for erasure; its month begins. A second one joins the first."""
    run = invocation(ctx)
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        made = asyncio.run(
            runtime.gdpr.request_erasure(
                user, tenant_of_caller(runtime, tenant), reason=reason, received_at=received, identity=identity
            )
        )
    run.output.result(request_document(made), *_said(made))


def list_(
    ctx: typer.Context,
    due: Annotated[bool, typer.Option("--due", help="Only what is still owed to somebody.")] = False,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """List requests for erasure by deadline, and how soon that is."""
    run = invocation(ctx)
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        found = asyncio.run(runtime.gdpr.requests(tenant_of_caller(runtime, tenant), due_only=due))
    now = datetime.now(UTC)
    rows = [
        (one.erasure_id, one.state.value, moment(one.received_at), moment(one.deadline), _left(one, now))
        for one in found
    ]
    columns = ("request", "state", "received", "due", "left")
    documents = [{**request_document(one), "days_left": _days_left(one, now)} for one in found]
    run.output.result({"requests": documents}, table(columns, rows) if rows else "No request.")


def show(
    ctx: typer.Context,
    request: RequestId,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Show one request: its state, dates, reasons, and how deep the erasure went."""
    run = invocation(ctx)
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        told = asyncio.run(runtime.gdpr.show(request, tenant_of_caller(runtime, tenant)))
    reasons = {
        "reason": told.reason,
        "extension_reason": told.extension_reason,
        "closing_reason": told.closing_reason,
    }
    document = {**request_document(told.erasure), **reasons}
    rows = [(name.replace("_", " "), text) for name, text in reasons.items() if text]
    run.output.result(document, *_said(told.erasure), *([table(("written", "text"), rows)] if rows else []))


def identify(
    ctx: typer.Context,
    request: RequestId,
    how: Annotated[str, typer.Option(metavar="CODE", help="How, such as passport; no name, no number.")],
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Record that it was established that the person asks."""
    run = invocation(ctx)
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        tenant_id = tenant_of_caller(runtime, tenant)
        made = asyncio.run(runtime.gdpr.verify_identity(request, tenant_id, method=how))
    run.output.result(request_document(made), *_said(made))


def confirm(
    ctx: typer.Context,
    request: RequestId,
    seen: Annotated[
        str | None,
        typer.Option(metavar="DIGEST", help="Digest of the preview that you looked at; without it you are asked."),
    ] = None,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Erase the person of a request, irrevocably, if nothing changed since the preview."""
    run = invocation(ctx)
    if seen is None and (run.output.as_json or not somebody_can_be_asked()):
        raise typer.BadParameter(
            "a request is confirmed with the digest that gdpr preview --request shows, where nobody can be asked",
            param_hint="--seen",
        )
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        tenant_id = tenant_of_caller(runtime, tenant)
        if seen is None:
            found = asyncio.run(runtime.gdpr.preview_request(request, tenant_id))
            run.output.result({}, *preview_for_people(found))
            typer.confirm("Erase this person? It cannot be undone.", abort=True)
            seen = found.digest
        with progress(run.output, "Erasing"):
            erased = asyncio.run(runtime.gdpr.confirm(request, tenant_id, seen=seen))
    run.output.result(request_document(erased), *_said(erased))


def cancel(
    ctx: typer.Context,
    request: RequestId,
    reason: Reason,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """End a request that the person withdrew, before it is confirmed."""
    run = invocation(ctx)
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        made = asyncio.run(runtime.gdpr.cancel(request, tenant_of_caller(runtime, tenant), reason=reason))
    run.output.result(request_document(made), *_said(made))


def reject(
    ctx: typer.Context,
    request: RequestId,
    reason: Reason,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """End a request that is not granted, before it is confirmed; the person is owed the reason."""
    run = invocation(ctx)
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        made = asyncio.run(runtime.gdpr.reject(request, tenant_of_caller(runtime, tenant), reason=reason))
    run.output.result(request_document(made), *_said(made))


def resume(
    ctx: typer.Context,
    request: RequestId,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Go on at once with an erasure that failed, was cut off, or was released from a hold."""
    run = invocation(ctx)
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        tenant_id = tenant_of_caller(runtime, tenant)
        with progress(run.output, "Erasing"):
            erased = asyncio.run(runtime.gdpr.resume_request(request, tenant_id))
    run.output.result(request_document(erased), *_said(erased))


def extend(
    ctx: typer.Context,
    request: RequestId,
    reason: Annotated[str, typer.Option(help="What the person was told; kept sealed.")],
    notified: Annotated[
        datetime,
        typer.Option(parser=parse_moment, metavar="TIME", help="When the person was told, within the first month."),
    ],
    until: Annotated[
        datetime | None,
        typer.Option(parser=parse_moment, metavar="TIME", help="Until when; three months after receipt if left out."),
    ] = None,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Give a request more time, once, after the person was told so (GDPR Art. 12(3))."""
    run = invocation(ctx)
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        made = asyncio.run(
            runtime.gdpr.extend(
                request, tenant_of_caller(runtime, tenant), reason=reason, notified_at=notified, until=until
            )
        )
    run.output.result(request_document(made), *_said(made))


def hold(
    ctx: typer.Context,
    reason: Reason,
    authority: Annotated[str, typer.Option(help="Who demands it, such as a court and its file number; kept sealed.")],
    review: Annotated[
        datetime,
        typer.Option(parser=parse_moment, metavar="TIME", help="When somebody must look whether it is still needed."),
    ],
    user: Annotated[
        str | None, typer.Option("--user", metavar="USER", help="The person; the whole tenant if left out.")
    ] = None,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Keep a person's or the whole tenant's data: it is not erased, purged or closed until the hold is released."""
    run = invocation(ctx)
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        tenant_id = tenant_of_caller(runtime, tenant)
        placed = asyncio.run(
            runtime.gdpr.hold(tenant_id, user_id=user, reason=reason, authority=authority, review_at=review)
        )
    run.output.result(
        _hold_document(placed), f"Hold {placed.hold_id} keeps {_kept(placed)}; review it at {moment(placed.review_at)}."
    )


def release(
    ctx: typer.Context,
    hold: Annotated[str, typer.Argument(metavar="HOLD", help="Id of the hold.", show_default=False)],
    reason: Annotated[str | None, typer.Option(help="Why, at most 1,000 characters; kept sealed.")] = None,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Release a hold; requests that only it kept go on by themselves, or at once by `gdpr resume`."""
    run = invocation(ctx)
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        released = asyncio.run(runtime.gdpr.release(hold, tenant_of_caller(runtime, tenant), reason=reason))
    run.output.result(
        _hold_document(released),
        f"Hold {released.hold_id} no longer keeps {_kept(released)}; gdpr list --due shows what goes on.",
    )


def holds(
    ctx: typer.Context, tenant: KeyTenant = None, api_key: ApiKey = None, api_key_file: ApiKeyFile = None
) -> None:
    """List legal holds with reason, authority and review date."""
    run = invocation(ctx)
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        found = asyncio.run(runtime.gdpr.holds(tenant_of_caller(runtime, tenant)))
    columns = ("hold", "keeps", "authority", "reason", "review", "released")
    rows = [
        (
            one.hold_id,
            one.subject_id or "the tenant",
            one.authority or "-",
            one.reason or "-",
            moment(one.review_at),
            moment(one.released_at) if one.released_at else "-",
        )
        for one in found
    ]
    run.output.result({"holds": [_hold_document(one) for one in found]}, table(columns, rows) if rows else "No hold.")


def register(app: typer.Typer) -> None:
    """Add these commands to `gdpr`."""
    for command in (request, show, identify, confirm, cancel, reject, resume, extend, hold, release, holds):
        app.command()(command)
    app.command("list")(list_)


def request_document(one: Erasure) -> dict[str, object]:
    """A request as JSON."""
    return {
        "erasure_id": one.erasure_id,
        "tenant_id": one.tenant_id,
        "subject_id": one.subject_id,
        "state": one.state,
        "failed_step": one.failed_step,
        "memories": one.memories,
        "counts": one.counts,
        "received_at": one.received_at,
        "requested_at": one.requested_at,
        "due_at": one.due_at,
        "extended_until": one.extended_until,
        "extension_notified_at": one.extension_notified_at,
        "identity_verified_at": one.identity_verified_at,
        "identity_method": one.identity_method,
        "previewed_at": one.previewed_at,
        "preview_digest": one.preview_digest,
        "confirmed_at": one.confirmed_at,
        "completed_at": one.completed_at,
        "levels": level_documents(one),
        "certificate": one.certificate,
    }


def level_documents(one: Erasure) -> dict[str, dict[str, object]]:
    """The levels as JSON."""
    return {
        level.value: {"reached_at": state.reached_at, "due_at": state.due_at, "evidence": dict(state.evidence)}
        for level, state in one.levels.items()
    }


def preview_for_people(found: ErasurePreview) -> Sequence[RenderableType]:
    """What would go, and what a confirmation names."""
    if found.subject_id is None:
        return ("Nothing is kept of this person.", f"Digest of what you see: {found.digest}")
    rows = [(place, str(count)) for place, count in found.counts.items() if count]
    return (
        f"Subject {found.subject_id}",
        table(("place", "would remove"), rows),
        f"Digest of what you see: {found.digest}",
    )


def _said(one: Erasure) -> Sequence[RenderableType]:
    first = f"Request {one.erasure_id} is {one.state.value.replace('_', ' ')}, due at {moment(one.deadline)}."
    levels = [
        (
            level.value,
            moment(state.reached_at) if state.reached_at else "-",
            moment(state.due_at) if state.due_at else "-",
        )
        for level, state in one.levels.items()
    ]
    shown = [table(("level", "reached", "due"), levels)] if levels else []
    return (first, *shown, *([_next(one)] if _next(one) else []))


def _next(one: Erasure) -> str:
    """What to do next."""
    match one.state:
        case ErasureState.RECEIVED:
            return f"Next: luminescent-cloud gdpr identify {one.erasure_id} --how CODE"
        case ErasureState.IDENTITY_VERIFIED:
            return f"Next: luminescent-cloud gdpr preview --request {one.erasure_id}"
        case ErasureState.PREVIEWED:
            return f"Next: luminescent-cloud gdpr confirm {one.erasure_id}"
        case ErasureState.HELD:
            return "It goes on when its legal hold is released: luminescent-cloud gdpr holds"
        case ErasureState.CONFIRMED | ErasureState.FAILED:
            return f"Next: luminescent-cloud gdpr resume {one.erasure_id}"
        case _:
            return ""


def _days_left(one: Erasure, now: datetime) -> int | None:
    if one.deadline is None or one.completed_at is not None:
        return None
    return math.floor((one.deadline - now).total_seconds() / _DAY_S)


def _left(one: Erasure, now: datetime) -> str:
    days = _days_left(one, now)
    if days is None:
        return "-"
    return f"{days} days" if days >= 0 else f"OVERDUE by {-days} days"


def _kept(one: LegalHold) -> str:
    return f"subject {one.subject_id}" if one.subject_id else "the whole tenant"


def _hold_document(one: LegalHold) -> dict[str, object]:
    return {
        "hold_id": one.hold_id,
        "tenant_id": one.tenant_id,
        "subject_id": one.subject_id,
        "reason": one.reason,
        "authority": one.authority,
        "review_at": one.review_at,
        "placed_at": one.placed_at,
        "released_at": one.released_at,
    }
