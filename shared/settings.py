"""Settings: environment variables `SKELDIR_*`, or lines of `.env`. One home for every name, unit and default."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.events.tasks import Storage
from shared.log_address import several_servers
from shared.models import PROVIDERS, CompatibleProvider, ModelName, ProviderName
from shared.money import MAX_CENTS

PREFIX = "SKELDIR_"


class Settings(BaseSettings):
    """What can be set. Amounts of money are cents, times are in the unit that the name ends with."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True)

    redis_url: str | None = Field(None, description="Redis or Valkey, as the role of this process. None: embedded.")
    min_replicas: int | None = Field(
        None,
        ge=0,
        description="Replicas that must have an append before it counts. None: 1 on a cluster or behind sentinels, "
        "else 0.",
    )
    database_url: str | None = Field(None, description="PostgreSQL, as the role of this process. None: embedded.")
    database_read_url: str | None = Field(
        None, description="A replica that the ledger's read API and console read. None: they read the primary."
    )
    database_pooler: Literal["transaction"] | None = Field(
        None, description="`transaction`: a pooler in transaction mode stands before PostgreSQL."
    )
    ledger_database_url: str | None = Field(
        None,
        description="The ledger's own URL when `skeldir up` runs on your servers. None: `SKELDIR_DATABASE_URL`.",
    )
    admin_database_url: str | None = Field(
        None, description="PostgreSQL as the owner role, for `skeldir migrate`. None: `SKELDIR_DATABASE_URL`."
    )
    data_dir: Path = Field(Path(".skeldir"), description="Where embedded servers keep their state.")
    gateway_host: str = Field("127.0.0.1", description="Address the gateway listens on.")
    gateway_port: int = Field(8080, ge=0, le=65535, description="Port of the gateway; 0 takes a free one.")
    ledger_host: str = Field("127.0.0.1", description="Address the ledger service listens on.")
    ledger_port: int = Field(8081, ge=0, le=65535, description="Port of the ledger service; 0 takes a free one.")
    policy_port: int = Field(
        8082, ge=0, le=65535, description="Port of policy's health and metrics; 0 takes a free one."
    )
    policy_host: str = Field("127.0.0.1", description="Address of policy's health and metrics.")
    executor_host: str = Field("127.0.0.1", description="Address of the executor's health and metrics.")
    executor_port: int = Field(8083, ge=0, le=65535, description="Port of the executor's health and metrics.")
    partitions: int = Field(
        4,
        ge=1,
        le=1024,
        description="Partitions of a new log. A log says itself how many it has: not set, that holds; another number "
        "is refused.",
    )

    monthly_cap_cents: float = Field(
        2500, ge=0, le=MAX_CENTS, description="Cents a user may spend in a calendar month (UTC)."
    )
    hourly_shutoff_cents: float = Field(
        500, ge=0, le=MAX_CENTS, description="Cents a user may spend in a clock hour (UTC)."
    )
    max_in_flight: int = Field(1000, ge=1, description="Allowed tasks of one tenant that have not ended yet.")
    provider_timeout_ms: int = Field(10_000, ge=1, description="Time a provider call may take.")
    breaker_failure_threshold: int = Field(3, ge=1, description="Consecutive failures of a user that open the breaker.")
    breaker_open_seconds: float = Field(300, gt=0, description="How long a breaker stays open before it probes.")
    breaker_half_open_probes: int = Field(1, ge=1, description="Calls that a half-open breaker lets through at once.")
    provider_breaker_enabled: bool = Field(True, description="Circuit breakers of models, across tenants.")
    provider_breaker_failure_percent: int = Field(
        50, ge=1, le=100, description="Of a model's calls in the window, failed or slow, that open its breaker."
    )
    provider_breaker_min_calls: int = Field(20, ge=1, description="Fewer calls in the window open no breaker.")
    provider_breaker_window_seconds: float = Field(30, ge=1, description="The window that slides over a model's calls.")
    provider_breaker_consecutive_failures: int = Field(
        10, ge=0, description="Failures of a model in a row that open its breaker; 0: any number does not."
    )
    provider_breaker_slow_ms: int = Field(
        0, ge=0, description="An answer that took longer counts as slow (streams do not); 0: none does."
    )
    provider_breaker_open_seconds: float = Field(
        30,
        gt=0,
        description="How long a model's breaker is open; doubled by each failed probe, up to ten times.",
    )
    provider_breaker_probes: int = Field(
        3, ge=1, description="Probes that succeed and close it; a partition sends no more of them in an open time."
    )
    provider_breaker_stub: bool = Field(False, description="The stub provider's models have breakers, too.")
    decision_ttl_ms: int = Field(60_000, ge=100, description="How long an allow may wait for its call.")
    max_refusals: int = Field(5, ge=1, description="How often an inbox entry may be refused before it is set aside.")
    max_parked: int = Field(
        10_000, ge=1, description="Tasks a partition may hold back while a breaker counts failures."
    )

    lease_ttl_ms: int = Field(2000, ge=100, description="A partition's writer is replaced after this silence.")
    control_staleness_ms: int = Field(2000, ge=50, description="Without reading the control stream for so long: block.")
    batch_size: int = Field(500, ge=1, le=5000, description="Entries read and committed at once.")
    max_backlog: int = Field(
        1_000_000, ge=1, description="Entries in a partition's tasks, or decisions, at which the gateway answers 503."
    )
    max_body_bytes: int = Field(262_144, ge=1024, description="Largest request body or inbox entry.")
    max_body_depth: int = Field(32, ge=2, description="Deepest nesting of a request body.")
    rate_limit_per_second: float = Field(0, ge=0, description="Requests a second for one API key; 0: no limit.")
    max_wait_seconds: float = Field(60, gt=0, description="Longest `Prefer: wait` the gateway honours.")
    result_ttl_seconds: int = Field(86_400, ge=60, description="How long a task's record stays in Redis after its end.")

    replies_max_length: int = Field(10_000, ge=1, description="Results that a reply stream keeps, about: the newest.")
    replies_ttl_seconds: int = Field(86_400, ge=1, description="A reply stream goes this long after its last result.")

    executor_concurrency: int = Field(128, ge=1, description="Provider calls one executor makes at once.")
    executor_claim_idle_ms: int = Field(
        2500, ge=200, description="Silence after which an executor's work is taken over."
    )
    max_attempts: int = Field(3, ge=1, le=10, description="Attempts of one task where it is certain nothing was spent.")
    late_result_seconds: float = Field(30, ge=0, description="How long a timed-out call is listened to for its result.")
    cache_ttl_seconds: int = Field(86_400, ge=1, description="How long an answer stays in the cache.")
    cache_max_bytes_per_tenant: int = Field(
        64 * 2**20, ge=0, description="Bytes of a tenant's cached answers; beyond, the oldest leave."
    )
    default_provider: str | None = Field(
        None, description="Provider of a bare model name. None: `openai` where OPENAI_API_KEY is set, else `stub`."
    )
    default_model: str | None = Field(None, description="Model of a task that names none. None: the provider's own.")
    model_routes: dict[str, str] = Field(
        {}, description="JSON: pattern of a bare model name to `provider` or `provider:model`. The first match counts."
    )
    fallbacks: dict[str, list[ModelName]] = Field(
        {},
        description="JSON: pattern of a model to those, `provider:model`, that are asked in its place, in their order.",
    )
    openai_compatible: dict[ProviderName, CompatibleProvider] = Field(
        {},
        description="JSON: name of a further provider of OpenAI's format to its `base_url`, `key_env`, `prices`.",
    )
    default_max_output_tokens: int = Field(1024, ge=1, description="Output bound of a call that states none.")
    unpriced_worst_case_cents: float | None = Field(
        None,
        ge=0,
        le=MAX_CENTS,
        description="Reserve this for a model without a known price. None: refuse it as `unpriced`.",
    )

    store_texts: Storage = Field(
        "full", description="What the books keep of prompts and answers, where `privacy.set` says nothing else."
    )
    webhook_secret_key: SecretStr | None = Field(
        None, min_length=32, description="Webhooks' secrets derive from it. None: `skeldir up` makes one for itself."
    )
    webhooks_allow_private: bool = Field(False, description="Webhooks may go to private addresses, and without TLS.")
    webhook_timeout_ms: int = Field(10_000, ge=100, description="Time one delivery to a webhook may take.")
    webhook_retry_ms: int = Field(1000, ge=10, description="Pause after a webhook's first failure; it doubles.")
    webhook_give_up_minutes: float = Field(1440, gt=0, description="After so long a message to a webhook is given up.")
    webhook_max_waiting: int = Field(10_000, ge=1, description="Messages that wait for one webhook, about.")

    master_key_file: Path | None = Field(
        None,
        description="Master key of the texts' encryption, a line of base64 (32 bytes); older keys on lines below it. "
        "None, and no command: texts are stored as they are. Embedded, `skeldir up` makes one for itself.",
    )
    master_key_command: str | None = Field(
        None, description="A command that prints the master key when a service starts (a KMS's or a vault's)."
    )
    seal_key_file: Path | None = Field(
        None, description="Ed25519 private key (PEM) by which the ledger seals its chains. None: no seals."
    )
    seal_events: int = Field(10_000, ge=1, description="Events of a chain after which its end is sealed.")
    seal_seconds: float = Field(10, gt=0, description="The longest that an event waits for a seal.")
    archive_dir: Path | None = Field(
        None, description="The folder of archived events (`skeldir ledger archive`), for commands that read all events."
    )
    archive_after_months: int | None = Field(
        None,
        ge=1,
        le=1200,
        description="Whole months of events that stay in the database beside the running one; older ones go to the "
        "archive, whose folder must be set. None: all stay.",
    )

    durability: str = Field("everysec", pattern="^(everysec|fsync)$", description="`fsync`: survives loss of power.")
    embedded_memory_mb: int = Field(
        0, ge=0, description="Memory bound of the embedded log server, in MiB; 0: half of the machine's."
    )
    trim_interval_ms: int = Field(1000, ge=50, description="How often what every reader has read is trimmed.")
    trim_keep_seconds: float = Field(
        10,
        ge=1,
        description="What is younger stays in the log, though all have read it: no less than what a restored copy of "
        "the books may lack.",
    )
    drain_seconds: float = Field(
        8, ge=0, description="After SIGTERM: how long calls and requests in hand may take to end."
    )
    secrets_dir: Path | None = Field(
        None,
        description="A folder of files that are named as environment variables (`OPENAI_API_KEY` too) and hold their "
        "values; what the environment has counts before them.",
    )
    owner_pid: int | None = Field(None, description="Stop when this process is gone. Set by `skeldir up`.")
    log_level: str = Field("INFO", description="Level of the structured logs on standard error.")
    jwt_jwks_url: str | None = Field(
        None,
        description="Where an identity provider publishes its keys (JWKS). With issuer and audience.",
    )
    jwt_issuer: str | None = Field(None, description="Issuer (`iss`) that a JWT must have.")
    jwt_audience: str | None = Field(None, description="Audience (`aud`) that a JWT must be for.")
    jwt_tenant_claim: str = Field("tenant_id", description="Claim of a JWT that holds the tenant's id, a UUID.")
    jwt_user_claim: str = Field("sub", description="Claim that names the user: a UUID, or what one is made from.")
    jwt_role_claim: str = Field("role", description="Claim that holds the role. A JWT without it is a producer's.")
    api_key: SecretStr | None = Field(None, description="Key that the command line uses against the gateway.")
    gateway_url: str | None = Field(
        None, description="Gateway for the command line (None: the running `up`) and for the console's orders."
    )

    @field_validator("redis_url")
    @classmethod
    def _an_address(cls, url: str | None) -> str | None:
        if url is not None:
            several_servers(url)
        return url

    @model_validator(mode="after")
    def _whole_identity_provider(self) -> Settings:
        given = [self.jwt_jwks_url, self.jwt_issuer, self.jwt_audience]
        if any(given) and not all(given):
            raise ValueError("give all three: SKELDIR_JWT_JWKS_URL, SKELDIR_JWT_ISSUER and SKELDIR_JWT_AUDIENCE")
        return self

    @field_validator("archive_after_months")
    @classmethod
    def _with_a_folder(cls, months: int | None, info: ValidationInfo) -> int | None:
        if months is not None and info.data.get("archive_dir") is None:
            raise ValueError("set SKELDIR_ARCHIVE_DIR too: the folder that older months go to")
        return months

    @field_validator("openai_compatible")
    @classmethod
    def _not_built_in(cls, named: dict[str, CompatibleProvider]) -> dict[str, CompatibleProvider]:
        if taken := PROVIDERS & named.keys():
            raise ValueError(f"{sorted(taken)} is built in; give it another name")
        return named


def no_settings(names: Iterable[str]) -> list[str]:
    """A sentence on each variable that is named as a setting and is none: a limit that is misspelt bounds nothing.

    They are told of, not refused: platforms put variables of their own beside them.
    """
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    unknown = sorted({name.upper() for name in names if name.upper().startswith(PREFIX)} - {*known})
    meant = {name: get_close_matches(name, known, 1, 0.8) for name in unknown}
    return [f"{name} is no setting" + (f": is {meant[name][0]} meant?" if meant[name] else "") for name in unknown]
