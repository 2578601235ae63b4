"""Laws of where an external database is: nothing secret in it, nothing lost from it, TLS unless said otherwise."""

from __future__ import annotations

from urllib.parse import quote, urlencode

import pytest
import sqlalchemy as sa

from cloud.kernel.errors import ConfigurationError
from cloud.storage.place import DatabasePlace

REMOTE = "postgresql://db.example.com/acme_control?sslmode=verify-full"


def parse(text: str, *, insecure: bool = False) -> DatabasePlace:
    return DatabasePlace.parse(text, setting="control_url", database="luminescent_control", insecure=insecure)


def driver_arguments(url: sa.URL) -> dict[str, object]:
    """What SQLAlchemy would hand to psycopg."""
    engine = sa.create_engine(url)
    arguments = engine.dialect.create_connect_args(url)
    return dict(arguments[1])


def test_every_parameter_of_libpq_reaches_the_driver_unchanged() -> None:
    given = {
        "sslmode": "verify-full",
        "sslrootcert": "/etc/ssl/ca.pem",
        "sslcert": "/etc/ssl/own.pem",
        "sslkey": "/etc/ssl/own.key",
        "channel_binding": "require",
        "application_name": "billing",
        "options": "-c search_path=public",
        "target_session_attrs": "read-write",
    }
    place = parse(f"postgresql://db.example.com:6432/acme?{urlencode(given, quote_via=quote)}")
    found = driver_arguments(place.url("luminescent_app", "p@ss/w:rd%"))
    assert found.items() >= given.items()
    expected = {"host": "db.example.com", "port": "6432", "dbname": "acme", "user": "luminescent_app"}
    assert found.items() >= (expected | {"password": "p@ss/w:rd%"}).items()
    assert place.connect_arguments("luminescent_app", None).items() >= (given | expected).items()
    assert "password" not in place.connect_arguments("luminescent_app", None)


def test_several_hosts_reach_the_driver_with_a_port_each() -> None:
    place = parse("postgresql://one.example.com,two.example.com/x?sslmode=require")
    found = driver_arguments(place.url("luminescent_app", None))
    assert (found["host"], found["port"]) == ("one.example.com,two.example.com", "5432,5432")


def test_a_peer_that_vanishes_is_noticed_unless_the_url_says_when() -> None:
    assert parse(REMOTE).parameters["tcp_user_timeout"] == "50000"
    assert parse(REMOTE + "&tcp_user_timeout=1000").parameters["tcp_user_timeout"] == "1000"


def test_the_database_has_a_name_where_the_url_gives_none() -> None:
    assert parse("postgresql://localhost").database == "luminescent_control"
    assert str(parse("postgresql://localhost")) == "luminescent_control on localhost:5432"


@pytest.mark.parametrize(
    "local",
    [
        "postgresql://localhost/x",
        "postgresql://127.0.0.1:5433/x",
        "postgresql://127.8.8.8/x",
        "postgresql://[::1]/x",
        "postgresql:///x?host=/run/postgresql",
        "postgresql+psycopg://localhost/x",
    ],
)
def test_this_machine_needs_no_tls(local: str) -> None:
    assert parse(local).is_local


@pytest.mark.parametrize("mode", ["", "?sslmode=disable", "?sslmode=allow", "?sslmode=prefer"])
@pytest.mark.parametrize(
    "host", ["db.example.com", "10.0.0.7", "localhost,db.example.com", "localhost.example.com", "[::2]"]
)
def test_another_host_without_tls_is_refused_unless_the_deployment_says_so(host: str, mode: str) -> None:
    text = f"postgresql://{host}/x{mode}"
    with pytest.raises(ConfigurationError, match="without TLS"):
        parse(text)
    assert not parse(text, insecure=True).insists_on_tls


def test_an_address_that_differs_from_its_name_counts() -> None:
    with pytest.raises(ConfigurationError, match="without TLS"):
        parse("postgresql://localhost/x?hostaddr=10.0.0.7")


def test_a_service_is_somewhere_else_as_far_as_we_know() -> None:
    with pytest.raises(ConfigurationError, match="without TLS"):
        parse("postgresql:///x?service=memory")
    place = parse("postgresql:///x?service=memory&sslmode=require")
    assert (place.insists_on_tls, place.verifies_host) == (True, False)
    assert place.parameters == {"service": "memory", "sslmode": "require", "dbname": "x"}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "names no host"),
        ("mysql://s3cret@localhost/x", "no postgresql:// URL"),
        ("postgresql://localhost/x?s3cret", "no URL that libpq reads"),
        ("postgresql://localhost:s3cret/x", "port that is no number"),
        ("postgresql://localhost/x?sslmod=require", "sslmod"),
        ("postgresql:///x", "names no host"),
        ("postgresql://luminescent_app@localhost/x", "names a user or a password"),
        ("postgresql://:s3cret@localhost/x", "names a user or a password"),
        ("postgresql://localhost/x?password=s3cret", "names a user or a password"),
    ],
)
def test_what_cannot_be_used_is_refused_without_quoting_it(text: str, part: str) -> None:
    with pytest.raises(ConfigurationError, match=part) as refused:
        parse(text)
    assert "control_url" in str(refused.value)
    assert "s3cret" not in str(refused.value)
    assert refused.value.__cause__ is None
