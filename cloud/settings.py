"""Settings of an installation, from arguments and environment variables (`LUMINESCENT_CLOUD_…`)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from cloud.kernel.ids import is_tenant_id
from src.memory.scoring import RankingWeights


class CloudSettings(BaseSettings):
    """How an installation is run. Each field is also read from the environment variable of its name.

    Attributes:
        home: Directory of the installation; made when first opened.
        root_key: The key above all keys, as standard base64 of 32 bytes; from `root_key_file` when left out.
        root_key_file: File that holds it, mode 0600; by default `secrets/root.key` in the home, made when missing.
        plans_file: Plan file; the one shipped when left out.
        trusted_gateway: Whether the header `x-tenant-id` comes from a gateway that authenticated it.
        default_tenant: Tenant of calls that name none; none unless set.
        worker: Where memories are materialized: a child process, a thread of this one, or nowhere here.
        hot_tier_mb: What the memories held open in this process may take, in MiB.
        control_pool_size: Connections to the control plane that are kept; twice as many in a burst.
        deadline_s: Seconds that a call of the control plane may take in all.
        statement_s: Seconds that one of its statements may run.
        embedder: The embedding model.
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
    plans_file: Path | None = None
    trusted_gateway: bool = False
    default_tenant: str | None = None
    worker: Literal["process", "thread", "off"] = "process"
    hot_tier_mb: int = Field(default=256, ge=1, le=1_000_000)
    control_pool_size: int = Field(default=8, ge=1, le=500)
    deadline_s: float = Field(default=8.0, gt=0, le=600)
    statement_s: float = Field(default=3.0, gt=0, le=600)
    embedder: Literal["wordllama", "hashing"] = "wordllama"
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

    @field_validator("home", mode="after")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("default_tenant", mode="after")
    @classmethod
    def _tenant(cls, tenant_id: str | None) -> str | None:
        if tenant_id is not None and not is_tenant_id(tenant_id):
            raise ValueError("a tenant id is 1-63 of a-z, 0-9, _ and -")
        return tenant_id
