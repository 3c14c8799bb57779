"""Which partition a tenant lives in, and the names of every stream and key.

All keys of one partition share a Redis Cluster hash tag (`{skeldir:<p>}`), so that one server-side step can span them.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from uuid import UUID

INBOX = "skeldir:inbox"
CONTROL = "skeldir:control"
DEAD_LETTERS = "skeldir:dead-letters"
REPLIES = "skeldir:replies"
# The hash tag of these is the control stream's whole name: one step may span them and the stream, on a cluster too.
PROVIDER_BREAKERS = f"{{{CONTROL}}}:provider-breakers"
"""Hash: up to where each partition's outcomes are counted, and each model's window (by `["provider","model"]`)."""
PARTITIONS = f"{{{CONTROL}}}:partitions"
"""String: how many partitions the log has, and had before it grew (`shared/streams/partition_count.py`)."""
PROVIDER_BREAKERS_LEASE = f"{{{CONTROL}}}:lease:provider-breakers"


def reply_prefix(tenant_id: UUID) -> str:
    """What the name of each stream begins with on which this tenant may be answered."""
    return f"{REPLIES}:{tenant_id}:"


def partition_of(tenant_id: UUID, partitions: int) -> int:
    """The partition of a tenant: CRC-32 of the id's 16 bytes, modulo the number of partitions."""
    return zlib.crc32(tenant_id.bytes) % partitions


@dataclass(frozen=True, slots=True)
class Partition:
    """The streams and keys of one partition."""

    number: int

    @property
    def tag(self) -> str:
        return f"{{skeldir:{self.number}}}"

    @property
    def tasks(self) -> str:
        """Stream of `task.submitted`: written by the gateway, read by policy and ledger."""
        return f"{self.tag}:tasks"

    @property
    def decisions(self) -> str:
        """Stream of decisions, reservations and breaker changes: written by policy, read by executor and ledger."""
        return f"{self.tag}:decisions"

    @property
    def outcomes(self) -> str:
        """Stream of attempts and ends: written by the executor, read by policy, ledger and waiting gateways."""
        return f"{self.tag}:outcomes"

    @property
    def policy(self) -> str:
        """Hash of policy's committed position in `tasks`, `outcomes` and the control stream, and `probes` (what it has
        sent through half-open breakers of models)."""
        return f"{self.tag}:policy"

    def lease(self, role: str) -> str:
        """Hash `owner`, `token`, `expires_ms` of the one writer of that role."""
        return f"{self.tag}:lease:{role}"

    @property
    def parked(self) -> str:
        """Hash entry id -> event of the tasks that policy has read and holds back until an outcome."""
        return f"{self.tag}:parked"

    @property
    def aside(self) -> str:
        """Hash entry id -> bytes of what policy could not take in, and of what came behind it for the same task."""
        return f"{self.tag}:aside"

    @property
    def reservations(self) -> str:
        """Hash reservation id -> reservation, for each one not yet settled or released."""
        return f"{self.tag}:reservations"

    @property
    def replies(self) -> str:
        """Hash `decisions`, `outcomes`: up to where ends were replied to. Not there before a reply is asked for."""
        return f"{self.tag}:replies"

    @property
    def ledger(self) -> str:
        """Hash stream name -> last entry id that is committed in Postgres; trimming stops there."""
        return f"{self.tag}:ledger"

    @property
    def fence(self) -> str:
        """String: the number of partitions of which a gateway must know to append tasks here; or `closed`."""
        return f"{self.tag}:fence"

    def account(self, tenant_id: UUID, user_id: UUID | None) -> str:
        """String: the budget and breaker state of a user, or of the whole tenant (`user_id` None)."""
        return f"{self.tag}:account:{tenant_id}:{user_id or '*'}"

    def task(self, task_id: UUID) -> str:
        """Hash: the record of one task, from acceptance to its result."""
        return f"{self.tag}:task:{task_id}"

    def cache(self, cache_key: str) -> str:
        """Hash `watermark`, `answer` of one cached answer."""
        return f"{self.tag}:cache:{cache_key}"

    def cached(self, tenant_id: UUID) -> str:
        """Sorted set: the keys of a tenant's cached answers, by when they were stored (ms). Sizes: `cached_sizes`."""
        return f"{self.tag}:cached:{tenant_id}"

    def cached_sizes(self, tenant_id: UUID) -> str:
        """Hash: bytes of each of a tenant's cached answers, and `total`."""
        return f"{self.tag}:cached:{tenant_id}:sizes"

    def flight(self, cache_key: str) -> str:
        """String: the task that is making the call which identical tasks wait for."""
        return f"{self.tag}:flight:{cache_key}"

    def chunks(self, task_id: UUID) -> str:
        """Channel on which the pieces of a streamed answer go to whom it may concern; nothing of it is kept."""
        return f"{self.tag}:chunks:{task_id}"


def partition_for(tenant_id: UUID, partitions: int) -> Partition:
    """The partition that holds everything of `tenant_id`."""
    return Partition(partition_of(tenant_id, partitions))
