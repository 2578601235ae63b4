"""Erasure: what shows how deep it went, and the upkeep that goes on with it in the background."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from cloud.audit.service import CloudAuditLogger
from cloud.custody.postgres import PostgresCustodyStore
from cloud.custody.service import Custody
from cloud.gdpr.closing import TenantClosing
from cloud.gdpr.closing_postgres import PostgresClosingStore
from cloud.gdpr.erasing import Erasing
from cloud.gdpr.evidence import Evidence
from cloud.gdpr.holds_postgres import PostgresHoldStore
from cloud.gdpr.postgres import PostgresErasureStore
from cloud.gdpr.service import CloudGDPRService
from cloud.kernel.errors import LuminescentError
from cloud.startup.backups import build_backups
from cloud.startup.certificates import certificates
from cloud.startup.custody import place_of
from cloud.startup.installation import Installation
from cloud.startup.keyring import keyring_directory
from cloud.tenancy.administration import Administration
from cloud.tenancy.postgres import PostgresTenantStore
from cloud.tenancy.provider import CloudTenantProvider

_EVERY_S: Final = 30.0

_log = logging.getLogger(__name__)


def evidence_of(installation: Installation, admissions: Administration, audit: CloudAuditLogger) -> Evidence:
    """What shows how deep an erasure goes here."""
    backups = build_backups(
        installation.settings,
        installation.server,
        installation.engines,
        installation.keyring,
        installation.proofs.keys,
        installation.ledger,
        admissions,
        audit,
    )
    return Evidence(installation.rewriter(), backups, installation.ledger, certificates(installation))


def build_gdpr(
    installation: Installation,
    admissions: Administration,
    audit: CloudAuditLogger,
    *,
    on_key_destroyed: Callable[[], None],
) -> CloudGDPRService:
    """The GDPR service of an installation."""
    maintenance = installation.engines.maintenance
    return CloudGDPRService(
        PostgresErasureStore(maintenance),
        PostgresHoldStore(maintenance),
        maintenance,
        installation.config,
        admissions,
        audit,
        evidence=evidence_of(installation, admissions, audit),
        on_key_destroyed=on_key_destroyed,
    )


def build_closing(
    installation: Installation,
    admissions: Administration,
    audit: CloudAuditLogger,
    tenants: PostgresTenantStore,
    *,
    on_key_destroyed: Callable[[], None],
) -> TenantClosing:
    """What closes tenants of an installation."""
    maintenance, config = installation.engines.maintenance, installation.config
    evidence = evidence_of(installation, admissions, audit)
    erasing = Erasing(PostgresErasureStore(maintenance), maintenance, config, audit, evidence, on_key_destroyed)
    return TenantClosing(PostgresClosingStore(maintenance), erasing, tenants, admissions, audit, config.clock)


def go_on_with_erasures(installation: Installation, stop: threading.Event) -> None:
    """Until `stop` is set: finish what was released or abandoned, and reach levels that are due."""
    engines, config = installation.engines, installation.config
    audit = installation.logger()
    tenants = PostgresTenantStore(engines.maintenance, first_model=config.models.first)
    admissions = Administration(CloudTenantProvider(config.identities), config.identities, audit, tenants)
    custody = Custody(
        place_of(installation.keyring, keyring_directory(installation.settings), installation.root_keys),
        PostgresCustodyStore(engines.maintenance),
        admissions,
        audit,
        config.clock,
        on_root_key=installation.proofs.keys.rewrap,
    )
    gdpr = build_gdpr(installation, admissions, audit, on_key_destroyed=custody.note)
    while not stop.wait(_EVERY_S):
        try:
            gdpr.upkeep()
        except LuminescentError as error:
            _log.warning("erasures are looked after later: %s", error)
