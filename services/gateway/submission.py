"""From what a producer sent to a task. Pure: validates, names the task, and says clearly what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from shared.events.control import first_problem
from shared.events.envelope import Envelope, named_id, new
from shared.events.tasks import (
    Operation,
    Task,
    TaskSubmitted,
    TaskType,
    cache_key_of,
    fingerprint_of,
    question_to,
    task_id_of,
)
from shared.money import from_cents
from shared.partitions import reply_prefix
from shared.privacy import NO_PRIVACY, TenantPrivacy
from shared.routing import resolve
from shared.settings import Settings

SOURCE = "/skeldir/gateway"
MAX_SIMULATED_DELAY_MS = 600_000
MAX_AMOUNT_CHARACTERS = 40

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
# No more than a name: that it lies within the tenant's own streams is checked where the tenant is known.
ReplyStream = Annotated[str, Field(max_length=200, pattern=r"^skeldir:replies:[0-9a-f-]{36}:[A-Za-z0-9._-]{1,100}$")]
_NAME: TypeAdapter[str] = TypeAdapter(Name)


class Invalid(ValueError):
    """The request cannot be a task; the text says what to mend. `too_large` where it is a matter of size."""

    def __init__(self, problem: str, *, too_large: bool = False) -> None:
        super().__init__(problem)
        self.too_large = too_large


def _cents(value: Any) -> Any:
    """An amount of cents, as it was written: a number, or a decimal in a string."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise PydanticCustomError("cents", "an amount of cents is a number, or a decimal in a string")
    if isinstance(value, str) and len(value) > MAX_AMOUNT_CHARACTERS:
        raise PydanticCustomError("cents", "an amount of cents has at most 40 characters")
    try:
        from_cents(value)
    except ValueError as error:
        raise PydanticCustomError("cents", "{problem}", {"problem": str(error)}) from error
    return value


Cents = Annotated[float | int | str, BeforeValidator(_cents)]


class TaskRequest(BaseModel):
    """A task as a producer writes it, on the inbox or over HTTP."""

    model_config = ConfigDict(extra="forbid")

    tenant_id: UUID | None = Field(None, description="Taken from the key over HTTP; required on the inbox.")
    user_id: UUID | None = Field(None, description="Taken from the key where that names a user.")
    request_id: Name | None = Field(None, description="Your own id: the same id gives the same answer, once.")
    correlation_id: Name | None = None
    task_type: TaskType
    prompt: dict[str, Any]
    max_cost_cents: Cents | None = Field(
        None, description="The most this may cost; none or 0: the worst case is computed and reserved."
    )

    reply_to: ReplyStream | None = Field(
        None, description="Stream on which the result is wanted: `skeldir:replies:<tenant_id>:<name>`."
    )

    @field_validator("prompt")
    @classmethod
    def _understood(cls, prompt: dict[str, Any]) -> dict[str, Any]:
        _PromptFields.model_validate(prompt)
        return prompt


class _PromptFields(BaseModel):
    """The prompt's fields that mean something to Skeldir; all others go to the provider as they are."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: Name | None = None
    cache_enabled: bool = False
    cache_watermark: Annotated[int, Field(ge=0, le=2**53)] = 0
    kill_switch: bool = False
    retry_safe: bool = False
    messages: list[Any] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    raise_error: bool | str | None = None
    simulated_output_text: str | None = None
    simulated_delay_ms: Annotated[float, Field(ge=0, le=MAX_SIMULATED_DELAY_MS)] = 0
    simulated_cost_cents: Cents = 0


def parse(body: bytes, max_bytes: int, max_depth: int) -> TaskRequest:
    """The request in a body or an inbox entry. Raises Invalid."""
    return validate(parse_json(body, max_bytes, max_depth))


def parse_json(body: bytes, max_bytes: int, max_depth: int) -> dict[str, Any]:
    """A JSON object of bounded size and depth. Raises Invalid."""
    if len(body) > max_bytes:
        raise Invalid(f"the body has {len(body)} bytes; at most {max_bytes} are taken", too_large=True)
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"the body is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise Invalid("the body is not a JSON object")
    if _deeper_than(raw, max_depth):
        raise Invalid(f"the body is nested deeper than {max_depth} levels")
    return raw


def name_of(text: str, what: str) -> str:
    """A request id that came beside the body, under the same rules as in it. Raises Invalid."""
    try:
        return _NAME.validate_python(text)
    except ValidationError as error:
        raise Invalid(f"{what}: {first_problem(error)}") from error


def validate(raw: Mapping[str, Any]) -> TaskRequest:
    """The request in a JSON object. Raises Invalid with the first problem, in one line."""
    try:
        return TaskRequest.model_validate(raw)
    except ValidationError as error:
        raise Invalid(first_problem(error)) from error


def submission(
    request: TaskRequest,
    *,
    tenant_id: UUID,
    user_id: UUID,
    request_id: str,
    origin: str,
    now_ms: int,
    settings: Settings,
    environ: Mapping[str, str],
    traceparent: str | None = None,
    operation: Operation = "chat",
    stream: bool = False,
    key_id: str | None = None,
    privacy: TenantPrivacy = NO_PRIVACY,
) -> Envelope:
    """The `task.submitted` event of a request. The same request always gives the same event id. Raises Invalid."""
    if request.reply_to is not None and not request.reply_to.startswith(reply_prefix(tenant_id)):
        raise Invalid(f"reply_to: a stream of this tenant begins with {reply_prefix(tenant_id)}")
    prompt = request.prompt
    provider, model = resolve(prompt.get("model"), settings, environ)
    max_cost = from_cents(request.max_cost_cents or 0)
    task_id = task_id_of(tenant_id, request.task_type, request_id)
    question = question_to(provider, model, operation)
    storage = privacy.store or settings.store_texts
    # A cached answer would outlive its task, in the log's server: of texts that are not stored there is none.
    cached = prompt.get("cache_enabled", False) and storage != "none"
    fingerprint = _fingerprint(user_id, request, max_cost, operation)
    task = Task(
        task_id=task_id,
        request_id=request_id,
        task_type=request.task_type,
        provider=provider,
        model=model,
        prompt=prompt,
        fingerprint=fingerprint,
        max_cost=max_cost,
        cache_key=cache_key_of(tenant_id, user_id, request.task_type, question, prompt) if cached else None,
        cache_watermark=prompt.get("cache_watermark", 0),
        kill_switch=prompt.get("kill_switch", False),
        retry_safe=prompt.get("retry_safe", False),
        origin=origin,
        key_id=key_id,
        operation=operation,
        stream=stream,
        storage=storage,
    )
    return new(
        TaskSubmitted(task=task),
        event_id=named_id(task_id, fingerprint),
        source=SOURCE,
        subject=str(task_id),
        now_ms=now_ms,
        tenantid=tenant_id,
        userid=user_id,
        correlationid=request.correlation_id or request_id,
        traceparent=traceparent,
    )


def _fingerprint(user_id: UUID, request: TaskRequest, max_cost: int, operation: Operation) -> str:
    body: dict[str, Any] = {"task_type": request.task_type.value, "prompt": request.prompt, "max_cost": max_cost}
    if operation != "chat":  # the same words are another question then
        body["operation"] = operation
    return fingerprint_of(user_id, body)


def _deeper_than(value: Any, levels: int) -> bool:
    if levels < 0:
        return True
    if isinstance(value, dict):
        return any(_deeper_than(item, levels - 1) for item in value.values())
    if isinstance(value, list):
        return any(_deeper_than(item, levels - 1) for item in value)
    return False
