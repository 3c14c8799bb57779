"""Privacy: what is stored of each tenant's texts and what blocks its prompts, as operators set it. The fold."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from shared.detectors import DetectorName
from shared.events.privacy import PrivacySet
from shared.events.tasks import Storage


@dataclass(frozen=True, slots=True)
class TenantPrivacy:
    """One tenant's. `store` None: as the setting `SKELDIR_STORE_TEXTS` says."""

    store: Storage | None = None
    block: frozenset[DetectorName] = frozenset()


NO_PRIVACY = TenantPrivacy()
Privacy = dict[UUID, TenantPrivacy]


def privacy_after(before: Privacy, event: PrivacySet) -> Privacy:
    """Every tenant's, after an order."""
    tenant_id = event.scope.tenant_id
    assert tenant_id is not None, "validated when the event was parsed"
    was = before.get(tenant_id, NO_PRIVACY)
    store = was.store if event.store is None else event.store
    block = was.block if event.block is None else frozenset(event.block)
    return {**before, tenant_id: TenantPrivacy(store, block)}
