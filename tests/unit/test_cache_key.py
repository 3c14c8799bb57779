"""The key of a cached answer: nobody else's question has it, and nothing that changes the answer is left out of it."""

from __future__ import annotations

from itertools import product
from typing import Any
from uuid import UUID

import orjson
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from services.gateway.submission import submission, validate
from shared.events.tasks import Operation, Task, TaskSubmitted, TaskType, cache_key_of, question_to
from shared.settings import Settings

# Small alphabets, so that texts meet: what separates the parts of a key must be more than their joined characters.
TEXT = st.text('ab:|,"[]{} \u00e9', max_size=4)
LEAF = st.none() | st.booleans() | st.integers(-2, 2) | st.floats(-2, 2) | TEXT
VALUE = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
PROMPT = st.dictionaries(TEXT | st.sampled_from(("messages", "temperature", "max_tokens", "tools", "n")), VALUE)
WHO = st.tuples(st.uuids(), st.uuids(), st.sampled_from(TaskType))
CONTROLS: dict[str, Any] = {"cache_enabled": True, "cache_watermark": 7, "kill_switch": True, "retry_safe": True}
OPERATIONS: tuple[Operation, ...] = ("chat", "responses", "embeddings")
MODELS = ("b", "b:responses", "responses", "a:b", "responses/a:b")
SETTINGS = Settings()


def written(value: Any) -> bytes:
    """As JSON: to Python 1, 1.0 and True are one value."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


@settings(max_examples=40)
@given(WHO, WHO, TEXT, TEXT, PROMPT, PROMPT)
def test_different_questions_of_anybody_have_different_keys(
    left: tuple[UUID, UUID, TaskType], right: tuple[UUID, UUID, TaskType], a: str, b: str, one: Any, other: Any
) -> None:
    assume((left, a, written(one)) != (right, b, written(other)))
    assert cache_key_of(*left, a, one) != cache_key_of(*right, b, other)


@given(WHO, st.uuids(), TEXT, PROMPT)
def test_the_same_question_of_another_tenant_or_user_has_another_key(
    who: tuple[UUID, UUID, TaskType], stranger: UUID, model: str, prompt: Any
) -> None:
    tenant, user, kind = who
    assume(stranger not in (tenant, user))
    mine = cache_key_of(tenant, user, kind, model, prompt)
    assert mine != cache_key_of(stranger, user, kind, model, prompt)
    assert mine != cache_key_of(tenant, stranger, kind, model, prompt)
    assert tenant == user or mine != cache_key_of(user, tenant, kind, model, prompt)


@settings(max_examples=40)
@given(WHO, TEXT, PROMPT, TEXT, VALUE)
def test_each_field_of_the_prompt_is_part_of_the_key(
    who: tuple[UUID, UUID, TaskType], model: str, prompt: dict[str, Any], name: str, value: Any
) -> None:
    changed = {**prompt, name: value}
    assume(written(changed) != written(prompt))
    assert cache_key_of(*who, model, changed) != cache_key_of(*who, model, prompt)


@settings(max_examples=40)
@given(WHO, TEXT, PROMPT, st.sets(st.sampled_from(sorted(CONTROLS))))
def test_how_a_task_is_handled_and_the_order_of_its_fields_are_not(
    who: tuple[UUID, UUID, TaskType], model: str, prompt: dict[str, Any], controls: set[str]
) -> None:
    handled = {**{name: CONTROLS[name] for name in controls}, **dict(reversed(prompt.items()))}
    assert cache_key_of(*who, model, handled) == cache_key_of(*who, model, prompt)


def test_no_two_models_and_operations_are_one_question() -> None:
    asked = list(product(("a", "responses"), MODELS, OPERATIONS))
    assert len({question_to(*one) for one in asked}) == len(asked)


def submitted(tenant: UUID, user: UUID, operation: Operation, task_type: str, prompt: dict[str, Any]) -> Task:
    asked = validate({"task_type": task_type, "prompt": {**prompt, "cache_enabled": True}})
    event = submission(
        asked,
        tenant_id=tenant,
        user_id=user,
        request_id="r",
        origin="http",
        now_ms=1,
        settings=SETTINGS,
        environ={},
        operation=operation,
    )
    assert isinstance(event.data, TaskSubmitted)
    return event.data.task


QUESTION = st.tuples(
    st.sampled_from(list(map(UUID, (f"{n}1111111-1111-4111-8111-111111111111" for n in "12")))),
    st.sampled_from(list(map(UUID, (f"{n}aaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa" for n in "ab")))),
    st.sampled_from(OPERATIONS),
    st.sampled_from(("route", "explanation")),
    st.fixed_dictionaries(
        {"input": st.sampled_from(("x", "y"))},
        optional={"model": st.sampled_from(("openai:a", "a", "openai:a:responses")), "temperature": st.just(0)},
    ),
)


@given(QUESTION, QUESTION)
def test_what_the_gateway_makes_of_a_request_keeps_them_apart(one: Any, other: Any) -> None:
    """Tenant, user, operation, task type, the model that is meant, and the prompt."""
    left, right = submitted(*one), submitted(*other)

    def asked(question: Any, task: Task) -> Any:
        tenant, user, operation, kind, prompt = question
        rest = {name: value for name, value in prompt.items() if name != "model"}
        return tenant, user, kind, operation, task.provider, task.model, rest

    if asked(one, left) != asked(other, right):
        assert left.cache_key != right.cache_key
    elif one == other:
        assert left.cache_key == right.cache_key
