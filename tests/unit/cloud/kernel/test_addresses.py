"""Addresses and ranges: one form to compare, nothing of the value in an error, and no family inside another."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.kernel.addresses import MAX_RANGES, parse_address, parse_ranges, site_of, within
from cloud.kernel.context import current_context, request_context
from cloud.kernel.errors import InvalidFilterError

addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:C000:201", "192.0.2.1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::1", "::1"),
    ],
)
def test_an_address_has_one_form(text: str, form: str) -> None:
    assert str(parse_address(text)) == form


@pytest.mark.parametrize(
    "text",
    ["", "localhost", "192.0.2", "192.0.2.1/32", "192.0.2.1:80", "[::1]", "010.0.0.1", " ::1", "1.2.3.4\n", 7, b"::1"],
)
def test_what_is_no_address_is_refused_unquoted(text: object) -> None:
    with pytest.raises(InvalidFilterError) as refused, request_context(client_address=text):  # type: ignore[arg-type]
        pass
    assert refused.value.place == "client_address"
    assert len(str(text)) < 3 or str(text) not in str(refused.value)


def test_the_context_holds_the_address_and_does_not_show_it() -> None:
    with request_context(client_address="::ffff:192.0.2.1"):
        context = current_context()
    assert context is not None
    assert str(context.client_address) == "192.0.2.1"
    assert "192" not in repr(context)


@given(addresses)
def test_an_address_is_within_its_own_range_and_within_none_of_the_other_family(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    found = parse_address(str(address))
    assert within(parse_ranges([str(address)]), found)
    everything_else = parse_ranges(["::/0"] if found.version == 4 else ["0.0.0.0/0"])
    assert not within(everything_else, found)
    assert not within((), found)


@pytest.mark.parametrize(
    ("ranges", "inside", "outside"),
    [
        (["192.0.2.0/24"], "192.0.2.255", "192.0.3.0"),
        (["192.0.2.0/24"], "::ffff:192.0.2.7", "::ffff:192.0.3.7"),
        (["::ffff:192.0.2.0/120"], "192.0.2.7", "192.0.3.7"),
        (["2001:db8::/32", "10.0.0.0/8"], "10.255.0.1", "2001:db9::1"),
        (["2001:db8::/32", "10.0.0.0/8"], "2001:db8:ffff::1", "11.0.0.1"),
    ],
)
def test_a_range_ends_where_it_says(ranges: list[str], inside: str, outside: str) -> None:
    assert within(parse_ranges(ranges), parse_address(inside))
    assert not within(parse_ranges(ranges), parse_address(outside))


@pytest.mark.parametrize("text", ["192.0.2.1/24", "0.0.0.0/33", "10.0.0.0/", "acme", "", "fe80::%1/64", 7, None, "*"])
def test_what_is_no_range_is_refused(text: object) -> None:
    with pytest.raises(InvalidFilterError) as refused:
        parse_ranges(["10.0.0.0/8", text])
    assert refused.value.place == "ip_ranges"


def test_there_are_few_ranges_each_once() -> None:
    assert [str(one) for one in parse_ranges(["::1", "10.0.0.0/8", "10.0.0.0/8"])] == ["10.0.0.0/8", "::1/128"]
    with pytest.raises(InvalidFilterError):
        parse_ranges(f"10.0.{number}.0/24" for number in range(MAX_RANGES + 1))


def test_one_caller_cannot_vary_its_site() -> None:
    assert site_of(parse_address("2001:db8:0:1::1")) == site_of(parse_address("2001:db8:0:1:ffff::9"))
    assert site_of(parse_address("2001:db8:0:1::1")) != site_of(parse_address("2001:db8:0:2::1"))
    assert site_of(parse_address("192.0.2.1")) != site_of(parse_address("192.0.2.2"))
