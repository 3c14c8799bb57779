"""Whether an HTTP API answers as its OpenAPI document says: schemathesis makes up requests, good ones and bad ones."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def conforms(document: dict[str, Any], url: str, key: str, *, examples: int, without: tuple[str, ...] = ()) -> int:
    """Ask each operation so often, with data as documented and with other data. Raises on the first wrong answer.

    The same requests each time; how many were made is returned.
    """
    schema = schemathesis.openapi.from_dict(document)
    asked, headers = 0, {"Authorization": f"Bearer {key}"}
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), f"the document is not valid: {found}"
        operation = found.ok()
        if operation.path in without:
            continue
        for mode in GenerationMode:

            @settings(
                max_examples=examples,
                derandomize=True,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: Case[Any]) -> None:
                nonlocal asked
                asked += 1
                case.call_and_validate(base_url=url, headers=headers, checks=CHECKS, timeout=10)

            ask()
    return asked
