"""Encodings that are authenticated are unambiguous; keys do not show; a slot says what was written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.keys.model import (
    SLOT_BYTES,
    Place,
    Slot,
    SlotState,
    SubjectKey,
    TenantKey,
    encode_place,
    link_tag,
    pack_slot,
    parse_slot,
)

any_text = st.text(st.characters(exclude_categories=()), max_size=6)
places = st.builds(Place, any_text, any_text, any_text, any_text)


@given(places, places)
def test_two_places_encode_alike_only_if_they_are_equal(one: Place, other: Place) -> None:
    assert (encode_place(one) == encode_place(other)) == (one == other)


@given(places, st.integers(0, 3), st.integers(1, 5))
def test_moving_characters_between_fields_changes_the_place(place: Place, index: int, count: int) -> None:
    fields = [place.tenant_id, place.subject_id, place.record_id, place.kind]
    moved = fields.copy()
    moved[index], moved[(index + 1) % 4] = (
        fields[index][:-count],
        fields[index][-count:] + fields[(index + 1) % 4],
    )
    assert (encode_place(Place(*moved)) == encode_place(place)) == (moved == fields)


@given(any_text, any_text, any_text, any_text)
def test_link_tags_agree_only_for_the_same_tenant_and_user(
    tenant: str, user: str, other_tenant: str, other_user: str
) -> None:
    tag = link_tag(bytes(32), tenant, user)
    assert (tag == link_tag(bytes(32), other_tenant, other_user)) == ((tenant, user) == (other_tenant, other_user))
    assert tag != link_tag(b"\1" * 32, tenant, user)


def test_link_tag_keeps_tenant_and_user_apart() -> None:
    assert link_tag(bytes(32), "acme", "2alice") != link_tag(bytes(32), "acme2", "alice")


def test_keys_do_not_show() -> None:
    key = bytes(range(32))
    shown = repr(SubjectKey("acme", "s", key)) + repr(TenantKey("acme", key)) + repr(parse_slot(pack_slot(key)))
    assert "acme" in shown
    assert "\\x01" not in shown
    assert key.hex() not in shown


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused_without_showing_it(length: int) -> None:
    for make in (lambda key: SubjectKey("acme", "s", key), lambda key: TenantKey("acme", key)):
        with pytest.raises(ValueError, match=f"not {length}") as caught:
            make(b"Z" * length)
        assert "Z" not in str(caught.value)


@given(st.binary(min_size=1, max_size=SLOT_BYTES - 2))
def test_a_slot_says_what_was_packed(wrapped: bytes) -> None:
    image = pack_slot(wrapped)
    assert len(image) == SLOT_BYTES
    assert parse_slot(image) == Slot(SlotState.USED, wrapped)


@pytest.mark.parametrize("length", [0, SLOT_BYTES - 1])
def test_what_does_not_fit_a_slot_is_refused(length: int) -> None:
    with pytest.raises(ValueError):
        pack_slot(bytes(length))


@given(st.binary(max_size=SLOT_BYTES + 1) | st.binary(min_size=SLOT_BYTES, max_size=SLOT_BYTES))
def test_any_bytes_can_be_read_as_a_slot(image: bytes) -> None:
    slot = parse_slot(image)
    assert slot.state is not SlotState.USED or (len(image), image[0]) == (SLOT_BYTES, SlotState.USED)
    assert slot.state is SlotState.USED or slot.wrapped == b""


def test_an_untouched_slot_is_free() -> None:
    assert parse_slot(bytes(SLOT_BYTES)) == Slot(SlotState.FREE, b"")
