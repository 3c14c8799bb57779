"""Events on `{skeldir:<p>}:tasks`, and what identifies a task."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Any, ClassVar, Literal
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, Field

from shared.events.envelope import NAMESPACE, Payload, named_id
from shared.money import Nanocents


class TaskType(StrEnum):
    """The kinds of task. Stored in events and named in `endpoint`; never rename one."""

    ROUTE = "route"
    EXPLANATION = "explanation"
    INVESTIGATION = "investigation"
    BUDGET_OPTIMIZATION = "budget_optimization"

    @property
    def endpoint(self) -> str:
        """The name under which the ledger files this task type (the replaced system's, kept for its queries)."""
        return f"app.tasks.llm.{self.value}"


Operation = Literal["chat", "embeddings", "responses"]
Storage = Literal["full", "redacted", "none"]


class TaskRef(BaseModel):
    """What every event about a task repeats, so that each can be projected on its own."""

    model_config = ConfigDict(frozen=True)

    task_id: UUID
    request_id: str
    task_type: TaskType
    provider: str
    model: str
    storage: Storage = Field("full", description="What the books keep of the task's texts (docs/privacy.md).")
    requested_model: str | None = Field(
        None, description="`provider:model` that was asked for, where the task was moved to another model."
    )


def ref_of(task: TaskRef) -> TaskRef:
    """Only what identifies the task: a prompt has no place in an event about its end."""
    return TaskRef(
        task_id=task.task_id,
        request_id=task.request_id,
        task_type=task.task_type,
        provider=task.provider,
        model=task.model,
        storage=task.storage,
        requested_model=task.requested_model,
    )


class Task(TaskRef):
    """A task as it was accepted: everything that deciding and executing it needs."""

    prompt: dict[str, Any]
    fingerprint: str = Field(description="SHA-256 of user and body: a second body under one request id is a conflict.")
    max_cost: Nanocents = Field(0, description="The caller's bound; 0: compute the worst case.")
    cache_key: str | None = Field(None, description="Set where the task may use the cache.")
    cache_watermark: int = 0
    kill_switch: bool = Field(False, description="The task asks not to be executed (a rehearsal of the stop).")
    retry_safe: bool = Field(False, description="The caller says that a second call does no harm.")
    origin: str = Field("http", description="`http`, `inbox` or `openai`.")
    key_id: str | None = Field(None, description="The API key that submitted it; the inbox has none.")
    operation: Operation = Field("chat", description="What is asked of the model.")
    stream: bool = Field(False, description="Somebody listens to the answer while it comes (ADR 9).")


class TaskSubmitted(Payload):
    """A task was accepted. From here on it reaches exactly one end."""

    event_type: ClassVar[str] = "task.submitted"

    task: Task


def task_id_of(tenant_id: UUID, task_type: TaskType, request_id: str) -> UUID:
    """The id of the task, and of its ledger row: a function of `(tenant, endpoint, request_id)`."""
    return named_id(NAMESPACE, f"{tenant_id}/{task_type.endpoint}/{request_id}")


def fingerprint_of(user_id: UUID, body: dict[str, Any]) -> str:
    """Digest of the user and the canonical JSON of the body (keys sorted)."""
    canonical = orjson.dumps([str(user_id), body], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(canonical).hexdigest()


def question_to(provider: str, model: str, operation: Operation) -> str:
    """Whom a question goes to, and what is asked of it: the same words are another question in another operation.

    A model's name may hold anything, a provider's no slash: so no two say the same.
    """
    named = f"{provider}:{model}"
    return named if operation == "chat" else f"{operation}/{named}"


_NOT_PART_OF_THE_QUESTION = frozenset({"cache_enabled", "cache_watermark", "kill_switch", "retry_safe"})


def cache_key_of(tenant_id: UUID, user_id: UUID, task_type: TaskType, model: str, prompt: dict[str, Any]) -> str:
    """Digest under which an answer is cached: tenant and user are always part of it."""
    question = {key: value for key, value in prompt.items() if key not in _NOT_PART_OF_THE_QUESTION}
    parts = [str(tenant_id), str(user_id), task_type.value, model, question]
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


def moved_to(task: Task, named: str, tenant_id: UUID, user_id: UUID) -> Task:
    """The same task, of the model `named` (`provider:model`): what is cached, too, is another's answer."""
    provider, _, model = named.partition(":")
    asked = task.requested_model or f"{task.provider}:{task.model}"
    key = task.cache_key
    if key is not None:
        key = cache_key_of(
            tenant_id, user_id, task.task_type, question_to(provider, model, task.operation), task.prompt
        )
    moved = {"provider": provider, "model": model, "requested_model": asked, "cache_key": key}
    return task.model_copy(update=moved)
