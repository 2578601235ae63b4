"""Settings of an installation, from arguments and environment variables (`LUMINESCENT_CLOUD_…`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from cloud.kernel.ids import is_tenant_id
from src.memory.scoring import RankingWeights

TokenAlgorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"
]
"""No `none` and nothing symmetric: a public key would do to sign."""
TokenRole = Literal["service", "member", "tenant_admin", "auditor"]
"""No `operator`: who operates holds the root key."""


class CloudSettings(BaseSettings):
    """How an installation is run. Each field is also read from the environment variable of its name.

    Attributes:
        home: Directory of the installation; made when first opened.
        root_key: The key above all keys, as standard base64 of 32 bytes; from `root_key_file` when left out.
        root_key_file: File that holds it, mode 0600; by default `secrets/root.key` in the home, made when missing.
        other_root_key_file: File with a second root key: while the root key is rotated the one to come, and afterwards
            the one before, for processes that are given their root key and cannot look it up beside `root_key_file`.
        plans_file: Plan file; the one shipped when left out.
        trusted_gateway: Whether the header `x-tenant-id` comes from a gateway that authenticated it.
        default_tenant: Tenant of calls that name none; none unless set.
        refusals_recorded_each: Refused strangers of one source and minute that get an event of their own; the others
            are counted.
        refusal_sources: Sources of refused strangers that are told apart in a minute.
        jwt_issuer: Issuer of the tokens (JWT) that are accepted; none are unless set. `docs/identity.md` says more of
            all of them.
        jwt_audience: What a token must be for.
        jwt_algorithms: Signatures that are accepted, as a list or separated by commas; all of them asymmetric.
        jwt_jwks_file: File with the issuer's public keys (JWK Set).
        jwt_jwks_url: URL of the issuer's public keys; https, or http to a loopback address.
        jwt_jwks_ca_file: Certificates (PEM) to trust at that URL instead of the system's.
        jwt_jwks_deadline_s: Seconds that a call waits for the keys at most.
        jwt_jwks_refresh_s: Age in seconds from which on keys are fetched anew, in the background.
        jwt_jwks_refetch_s: Seconds between two fetches at least, whatever key ids are asked for.
        jwt_jwks_max_age_s: Age in seconds up to which keys serve while the issuer does not answer.
        jwt_leeway_s: Seconds by which the issuer's clock may differ from ours.
        jwt_max_age_s: Seconds that a token may live.
        jwt_tenant_claim: Claim with the tenant: its name, or a JSON Pointer such as `/app/tenant`.
        jwt_user_claim: Claim with the person.
        jwt_roles_claim: Claim with the issuer's names of roles.
        jwt_roles: The issuer's names of roles and ours, as JSON; names that are not in it are dropped.
        worker: Where memories are materialized: a child process, a thread of this one, or nowhere here.
        hot_tier_mb: What the memories held open in this process may take, in MiB.
        control_url: The control plane's database on an external server, as a `postgresql://` URL without user and
            password; with `data_url`, and without both the embedded server is used.
        data_url: Pixeltable's database on an external server.
        role_passwords_file: JSON object of passwords by role, mode 0600, for an external server.
        insecure_database: Whether an external server on another host may be reached without TLS.
        migrate_on_start: Whether start-up upgrades an older database; unless set, the embedded one alone.
        data_pool_size: Connections that Pixeltable keeps; twice as many in a burst.
        background_pool_size: Connections that each of worker, key look-up and maintenance keeps; twice as many in a
            burst.
        control_pool_size: Connections to the control plane that are kept; twice as many in a burst.
        deadline_s: Seconds that a call of the control plane may take in all.
        statement_s: Seconds that one of its statements may run.
        embedder: The embedding model that new tables begin with; those that are there are changed by `embeddings
            migrate`.
        sentence_transformers_dir: Directory of a sentence-transformers model, which is then known by that name.
        deleted_retention_days: Days that a deleted memory is kept and can be brought back.
        expired_retention_days: Days that an expired memory is kept.
        superseded_retention_days: Days that a superseded memory is kept.
        rewrite_at_once: Whether an erasure rewrites files and the write-ahead log before it returns; unless set, on the
            embedded server alone.
        rewrite_max_wait_ms: What any other request may wait for a table that is being rewritten, in milliseconds.
        rewrite_windows: Hours (UTC) in which scheduled rewriting may run, such as `02:00-04:00,23:30-00:30`; at any
            time when left out.
        audit_heads_dir: Where signed heads of the audit logs are kept outside the database, only added to; by default
            `audit-heads` in the home. Another disk, or a directory that another machine collects, is better.
        audit_archive_dir: Where months of the audit logs go that are no longer kept in the database, as Parquet files;
            by default `audit-archive` in the home. The only place of those events: back it up.
        audit_minimum_days: Days that the law wants audit logs kept; no archive is deleted before, and a plan that says
            less keeps the service from starting.
        erasure_ledger_dir: Where it is kept, signed and outside the databases, who was erased, so that a restored
            backup brings nobody back; by default `erasure-ledger` in the home. Another disk is better.
        backup_days: Days that a backup of the data is kept unless `backup --days` says otherwise.
        postgres_programs_dir: Directory of `pg_dump` and `pg_restore` for an external server that is newer than those
            that come with the embedded one.
        alert_webhook_url: Where security events are posted to as JSON, ids and codes alone; https, or http to this
            machine. They are in the log of the service in any case.
        otel_exporter: Where spans and metrics go: nowhere, to standard error, or to an OTLP collector, which needs
            the extra `otlp`. An application that sets up OpenTelemetry itself gets them without this.
        log_format: Lines of the log for people, or one JSON object each; of the command and the worker alone.
        log_level: The least that they log.
        lexical_weight: Weight of the standardized BM25 score; `docs/ranking.md` says more of all seven.
        dense_weight: Weight of the standardized cosine.
        neighbour_weight: Share of its scores that a memory lends to the next one of its session.
        name_weight: What a memory gets whose label the question names.
        date_weight: What a memory gets that was made in a month or year which the question names.
        recency_weight: What the newest memory gets.
        confidence_weight: What a memory of confidence 1 gets.
    """

    model_config = SettingsConfigDict(env_prefix="LUMINESCENT_CLOUD_", extra="forbid", frozen=True)

    home: Path = Path("~/.luminescent-cloud")
    root_key: SecretStr | None = None
    root_key_file: Path | None = None
    other_root_key_file: Path | None = None
    plans_file: Path | None = None
    trusted_gateway: bool = False
    default_tenant: str | None = None
    refusals_recorded_each: int = Field(default=10, ge=1, le=1_000_000)
    refusal_sources: int = Field(default=100, ge=1, le=100_000)
    jwt_issuer: str | None = Field(default=None, min_length=1)
    jwt_audience: str | None = Field(default=None, min_length=1)
    jwt_algorithms: Annotated[tuple[TokenAlgorithm, ...], NoDecode] = Field(
        default=("RS256", "ES256", "EdDSA", "Ed25519"), min_length=1
    )
    jwt_jwks_file: Path | None = None
    jwt_jwks_url: str | None = None
    jwt_jwks_ca_file: Path | None = None
    jwt_jwks_deadline_s: float = Field(default=3.0, gt=0, le=30)
    jwt_jwks_refresh_s: float = Field(default=600.0, gt=0, le=86_400)
    jwt_jwks_refetch_s: float = Field(default=30.0, ge=1, le=3_600)
    jwt_jwks_max_age_s: float = Field(default=86_400.0, gt=0, le=2_592_000)
    jwt_leeway_s: int = Field(default=60, ge=0, le=300)
    jwt_max_age_s: int = Field(default=86_400, ge=1, le=31_536_000)
    jwt_tenant_claim: str = Field(default="tenant_id", min_length=1)
    jwt_user_claim: str = Field(default="sub", min_length=1)
    jwt_roles_claim: str = Field(default="roles", min_length=1)
    jwt_roles: dict[str, TokenRole] = Field(
        default={"service": "service", "member": "member", "tenant_admin": "tenant_admin", "auditor": "auditor"}
    )
    worker: Literal["process", "thread", "off"] = "process"
    hot_tier_mb: int = Field(default=256, ge=1, le=1_000_000)
    control_url: SecretStr | None = None
    data_url: SecretStr | None = None
    role_passwords_file: Path | None = None
    insecure_database: bool = False
    migrate_on_start: bool | None = None
    data_pool_size: int = Field(default=5, ge=1, le=100)
    background_pool_size: int = Field(default=2, ge=1, le=100)
    control_pool_size: int = Field(default=8, ge=1, le=500)
    deadline_s: float = Field(default=8.0, gt=0, le=600)
    statement_s: float = Field(default=3.0, gt=0, le=600)
    embedder: Literal["wordllama", "wordllama-128", "hashing", "sentence-transformers"] = "wordllama"
    sentence_transformers_dir: Path | None = None
    deleted_retention_days: float = Field(default=30, ge=0, le=36_500)
    expired_retention_days: float = Field(default=30, ge=0, le=36_500)
    superseded_retention_days: float = Field(default=365, ge=0, le=36_500)
    rewrite_at_once: bool | None = None
    rewrite_max_wait_ms: int = Field(default=1_000, ge=10, le=600_000)
    rewrite_windows: str | None = None
    audit_heads_dir: Path | None = None
    audit_archive_dir: Path | None = None
    audit_minimum_days: int = Field(default=365, ge=0, le=36_500)
    erasure_ledger_dir: Path | None = None
    backup_days: int = Field(default=30, ge=1, le=3650)
    postgres_programs_dir: Path | None = None
    alert_webhook_url: SecretStr | None = None
    otel_exporter: Literal["none", "console", "otlp"] = "none"
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "warning"
    lexical_weight: float = Field(default=0.6, ge=0, le=10)
    dense_weight: float = Field(default=0.4, ge=0, le=10)
    neighbour_weight: float = Field(default=0.6, ge=0, le=1)
    name_weight: float = Field(default=0.6, ge=0, le=10)
    date_weight: float = Field(default=1.0, ge=0, le=10)
    recency_weight: float = Field(default=0.0, ge=0, le=10)
    confidence_weight: float = Field(default=0.0, ge=0, le=10)

    def ranking_weights(self) -> RankingWeights:
        """The seven weights, as ranking takes them."""
        return RankingWeights(
            lexical=self.lexical_weight,
            dense=self.dense_weight,
            neighbours=self.neighbour_weight,
            names=self.name_weight,
            dates=self.date_weight,
            recency=self.recency_weight,
            confidence=self.confidence_weight,
        )

    @model_validator(mode="after")
    def _both_urls_or_none(self) -> Self:
        if (self.control_url is None) != (self.data_url is None):
            raise ValueError("control_url and data_url belong together: set both for an external server, or neither")
        if self.role_passwords_file is not None and self.control_url is None:
            raise ValueError("role_passwords_file is for an external server: set control_url and data_url too")
        return self

    @field_validator("home", mode="after")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("jwt_algorithms", mode="before")
    @classmethod
    def _listed(cls, algorithms: object) -> object:
        if not isinstance(algorithms, str):
            return algorithms
        return tuple(name.strip(' "[]') for name in algorithms.split(","))

    @field_validator("default_tenant", mode="after")
    @classmethod
    def _tenant(cls, tenant_id: str | None) -> str | None:
        if tenant_id is not None and not is_tenant_id(tenant_id):
            raise ValueError("a tenant id is 1-63 of a-z, 0-9, _ and -")
        return tenant_id
