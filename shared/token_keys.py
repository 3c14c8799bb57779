"""Whether bearer tokens are taken here, and who knows them: as the settings say."""

from __future__ import annotations

from typing import Protocol

from shared.control_state import Key
from shared.settings import Settings
from shared.token_claims import Claims


class TokenKeys(Protocol):
    """Knows what keys tokens stand for."""

    def key_of(self, token: str, now_ms: int) -> Key:
        """The key that this token stands for. Raises TokenRefused."""

    async def follow(self) -> None:
        """Keep up with the identity provider, until cancelled."""


def token_keys(settings: Settings) -> TokenKeys | None:
    """Those of the configured identity provider; None where there is none."""
    url, issuer, audience = settings.jwt_jwks_url, settings.jwt_issuer, settings.jwt_audience
    if url is None or issuer is None or audience is None:
        return None
    # Cryptography takes a tenth of a second to import: who has no identity provider does not wait for that.
    from shared.tokens import Tokens

    names = (settings.jwt_tenant_claim, settings.jwt_user_claim, settings.jwt_role_claim)
    return Tokens(url, Claims(issuer, audience, *names))
