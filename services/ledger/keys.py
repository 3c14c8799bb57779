"""Who is asking: an API key, known by its hash from the control stream, and the eyes that it gets in the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from services.ledger.sessions import AUDITOR, OPERATOR, USER
from shared.admission import Admission, NotAdmitted
from shared.clock import Clock
from shared.control_state import Key
from shared.streams.control_reader import ControlReader
from shared.token_keys import TokenKeys


class Refused(Exception):
    """The request is not answered; `status` and the text say why, and `code` says it to programs."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class View:
    """What a caller may look at: the database role, and the settings that its policies read."""

    key: Key
    role: str
    tenant_id: UUID | None
    user_ids: Sequence[UUID]

    @property
    def is_operator(self) -> bool:
        return self.role == OPERATOR

    @property
    def is_of_all(self) -> bool:
        """Whether it shows every tenant."""
        return self.is_operator and self.tenant_id is None and not self.user_ids

    @property
    def is_wide(self) -> bool:
        """Whether it may show more than one user, or is an operator's: such a look is written down."""
        return self.role != USER or self.key.role == "operator"


class Doorkeeper:
    """Knows the keys, as fresh as the control stream."""

    def __init__(self, control: ControlReader, clock: Clock, tokens: TokenKeys | None = None) -> None:
        self._admission = Admission(control, clock, tokens)

    def admit(self, authorization: str | None, tenant: str | None, user: str | None) -> View:
        """The view of the key in an `Authorization: Bearer` header, narrowed to a tenant and a user. Raises Refused."""
        try:
            key = self._admission.key_of(authorization)
        except NotAdmitted as refused:
            raise Refused(refused.status, refused.code, str(refused)) from refused
        return view(key, parse_id("tenant_id", tenant), parse_id("user_id", user))


def view(key: Key, tenant_id: UUID | None, user_id: UUID | None) -> View:
    """What the key may see: an operator everything, a key that names no user its tenant, another one its user."""
    if key.role == "operator":
        return View(key, OPERATOR, tenant_id, () if user_id is None else (user_id,))
    if tenant_id not in (None, key.tenant_id):
        raise Refused(403, "wrong_tenant", "this key belongs to another tenant")
    if key.user_id is None:
        if user_id is None:
            return View(key, AUDITOR, key.tenant_id, ())
        return View(key, USER, key.tenant_id, (user_id,))
    if user_id not in (None, key.user_id):
        raise Refused(403, "wrong_user", "this key belongs to another user")
    return View(key, USER, key.tenant_id, (key.user_id,))


def narrowed(view: View) -> View:
    """The view with the eyes of whoever sees just what it is narrowed to, so that row-level security narrows it.

    Raises Refused (422) for a user without a tenant.
    """
    if not view.is_operator or view.is_of_all:
        return view
    if view.tenant_id is None:
        raise Refused(422, "missing_tenant", "give tenant_id beside user_id")
    return replace(view, role=USER if view.user_ids else AUDITOR)


def parse_id(name: str, value: str | None) -> UUID | None:
    """A UUID out of a query parameter. Raises Refused (422)."""
    if value is None:
        return None
    try:
        return UUID(value)
    except ValueError as error:
        raise Refused(422, "invalid_parameter", f"{name} is a UUID, not {value[:100]!r}") from error
