"""The URL of a log on several servers."""

from __future__ import annotations

import pytest

from shared.log_address import InvalidAddress, several_servers
from shared.streams.connection import connect
from shared.streams.direct import DirectConnection, DirectLocalConnection, DirectTLSConnection


@pytest.mark.parametrize("url", ["redis://h:1/0", "rediss://u:p@h:1/0?ssl_ca_certs=/a", "unix:///run/redis.sock"])
def test_one_server_is_left_to_the_library(url: str) -> None:
    assert several_servers(url) is None


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://h:1/0", DirectConnection),
        ("rediss://h:1/0", DirectTLSConnection),
        ("unix:///run/redis.sock", DirectLocalConnection),
        ("redis+sentinel://a/main", DirectConnection),
        ("rediss+sentinel://a/main", DirectTLSConnection),
    ],
)
def test_each_url_is_spoken_to_by_connections_of_ours(url: str, kind: type) -> None:
    pool = connect(url, client_name="test").connection_pool
    assert isinstance(pool.make_connection(), kind)


def test_a_clusters_nodes_share_credentials_and_options() -> None:
    found = several_servers("rediss+cluster://ledger:p%40ss@a.example:7000,[::1]:7001,c.example?ssl_ca_certs=/ca.pem")
    assert found is not None
    assert (found.kind, found.hosts) == ("cluster", (("a.example", 7000), ("::1", 7001), ("c.example", 6379)))
    assert found.server("d.example", 7002) == "rediss://ledger:p%40ss@d.example:7002/0?ssl_ca_certs=%2Fca.pem"
    assert found.server("::1", 7002).startswith("rediss://ledger:p%40ss@[::1]:7002/0")


def test_sentinels_have_their_own_credentials() -> None:
    url = "redis+sentinel://policy:secret@a,b:26380/main?sentinel_username=watch&sentinel_password=a/b&x=1"
    found = several_servers(url)
    assert found is not None
    assert (found.kind, found.hosts, found.service) == ("sentinel", (("a", 26379), ("b", 26380)), "main")
    assert found.server("a", 6379) == "redis://policy:secret@a:6379/0?x=1"
    assert found.sentinel("a", 26379) == "redis://watch:a%2Fb@a:26379/0?x=1"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis+ring://a:1", "unknown"),
        ("http+cluster://a:1", "unknown"),
        ("localhost:6379", "begins with"),
        ("redis+sentinel://a:1", "the name of the servers is missing"),
        ("redis+cluster://a:1/3", "only database 0"),
        ("redis+cluster://secret@a:1,", "a host is missing"),
        ("redis+cluster://secret@a:port", "'a:port' is no host and port"),
    ],
)
def test_what_names_no_server_is_refused_without_a_credential(url: str, said: str) -> None:
    with pytest.raises(InvalidAddress, match=said) as refused:
        several_servers(url)
    assert "secret" not in str(refused.value)
