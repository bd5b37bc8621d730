"""How entries are packed for keeping: nothing is lost, and what is damaged is not believed."""

from __future__ import annotations

import random
from array import array
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indelible.errors import Damaged
from indelible.segment import (
    BLOCK,
    SEGMENT,
    TILE,
    Columns,
    Filter,
    Lookups,
    Postings,
    Segment,
    Span,
    find_fingerprint,
    find_in_columns,
    pack_block,
    unpack_block,
)
from indelible.terms import FEW_VALUES, NO_TRACE, Field, Terms, field_of, fingerprint, term

if TYPE_CHECKING:
    from collections.abc import Sequence

numbers = st.integers(0, 2**63 - 1)
few_numbers = st.sampled_from([1, 2, 3, 16, 2**40 + 5, 2**63 - 1])
fingerprints = st.integers(1, 2**32 - 1)


def entries(number: st.SearchStrategy[int] = numbers) -> st.SearchStrategy[list[Terms]]:
    """Make what some entries can be found by."""
    return st.lists(
        st.builds(
            Terms,
            terms=st.lists(number, max_size=6, unique=True).map(tuple),
            id=fingerprints,
            id_time=st.integers(0, 2**48 - 1),
            trace=st.just(NO_TRACE) | fingerprints,
            occurred_at=st.integers(-(2**62), 2**62),
        ),
        min_size=1,
        max_size=20,
    )


# ---- Columns ----


@given(entries())
def test_columns_are_read_as_they_were_written(made: list[Terms]) -> None:
    """What entries can be found by survives being packed."""
    columns = Columns.of(made)

    assert columns == Columns.from_bytes(len(made), columns.to_bytes())
    assert [len(entry.terms) for entry in made] == list(columns.counts)
    assert [number for entry in made for number in entry.terms] == list(columns.terms)
    assert [entry.id for entry in made] == list(columns.ids)
    assert list(columns.traces) in ([entry.trace for entry in made], [])


@given(st.lists(entries(), min_size=1, max_size=4))
def test_joined_columns_are_those_of_all_entries(parts: list[list[Terms]]) -> None:
    """Entries that came in several commits are found as if they had come in one."""
    together = [entry for part in parts for entry in part]

    assert Columns.of(together) == Columns.joined([Columns.of(part) for part in parts])


@given(entries(few_numbers), st.lists(st.frozensets(few_numbers), max_size=3))
def test_columns_offer_exactly_the_entries_with_a_term_of_each_group(
    made: list[Terms], groups: list[frozenset[int]]
) -> None:
    """A search over the open part neither skips an entry nor takes one for another."""
    columns = Columns.of(made)
    expected = {
        place
        for place, entry in enumerate(made)
        if all(not group.isdisjoint(entry.terms) for group in groups)
    }

    found = find_in_columns(columns.to_bytes(), len(made), groups)

    assert expected == (set(range(len(made))) if found is None else found)
    for number in {number for entry in made for number in entry.terms}:
        assert {p for p, entry in enumerate(made) if number in entry.terms} == columns.positions(
            number
        )


@given(st.lists(st.binary(min_size=4, max_size=4), max_size=20), st.data())
def test_a_fingerprint_is_found_at_its_places_alone(
    column: list[bytes], data: st.DataObject
) -> None:
    """Bytes that only look like a fingerprint, across two of them, are none."""
    joined = b"".join(column)
    wanted = (
        data.draw(st.sampled_from(column) if column else st.binary(min_size=4, max_size=4))
        if data.draw(st.booleans()) or len(joined) < 8
        else joined[1:5]
    )

    expected = [place for place, each in enumerate(column) if each == wanted]

    assert expected == list(find_fingerprint(joined, int.from_bytes(wanted, "little")))


@given(entries(), st.integers(-30, 30).filter(bool))
def test_columns_of_another_length_are_refused(made: list[Terms], change: int) -> None:
    """Columns that were cut or grew do not pass for those of other entries."""
    data = Columns.of(made).to_bytes()
    other = data[:change] if change < 0 else data + bytes(change)
    count = len(made)
    fitting = {
        len(Columns.of(made).counts) * 5 + 8 * len(Columns.of(made).terms) + extra
        for extra in (0, 4 * count)
    }

    if len(other) in fitting and other[:count] == data[:count]:
        return  # Four bytes more or less an entry are traces, or none.
    with pytest.raises(Damaged, match=f"columns of {count} entries: found {len(other)} bytes"):
        Columns.from_bytes(count, other)


# ---- Blocks ----


bodies = st.lists(
    st.binary(max_size=300).map(lambda data: data.replace(b"\n", b"")), max_size=BLOCK
)


@given(bodies.filter(bool))
def test_a_block_gives_back_its_bodies(made: list[bytes]) -> None:
    """Compressing entries changes none of their bytes."""
    assert made == unpack_block(pack_block(made))


def test_a_block_holds_the_largest_entries() -> None:
    """Sixty-four entries of the greatest size that an entry may have fit into one block."""
    noise = random.Random(1)
    made = [noise.randbytes(65_535).replace(b"\n", b"x") for _ in range(BLOCK)]

    assert made == unpack_block(pack_block(made))


def test_a_block_with_a_flipped_bit_is_damaged() -> None:
    """Each bit of a block counts: a wrong body never comes out of it."""
    made = [b'{"recorded_at":"%d","event":{"actor":"user:u%d"}}' % (n, n % 7) for n in range(BLOCK)]
    packed = pack_block(made)

    for bit in range(len(packed) * 8):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        found = made
        with suppress(Damaged):
            found = unpack_block(bytes(flipped))
        # Not damaged may be what has no meaning: a reserved bit of the frame's header.
        assert made == found


@pytest.mark.parametrize(
    "spoil",
    [
        lambda packed: packed[:-1],
        lambda packed: packed + b"\0",
        lambda packed: packed + packed,
        lambda _: b"",
        lambda _: b"no frame at all",
        lambda _: pack_block([bytes(65_536)] * (BLOCK + 1)),
    ],
    ids=["cut", "longer", "twice", "empty", "foreign", "bomb"],
)
def test_what_is_not_one_block_is_damaged(spoil: object) -> None:
    """A block is exactly one frame of a bounded size, so that damage cannot fill the memory."""
    with pytest.raises(Damaged, match=r"^block: "):
        unpack_block(spoil(pack_block([b"a", b"b"])))  # type: ignore[operator]


# ---- Postings ----


def tiles_of(places: dict[int, Sequence[int]], size: int) -> list[Columns]:
    """Return tiles of *size* entries in which each term stands at its places."""
    at: list[list[int]] = [[] for _ in range(size)]
    for number, where in places.items():
        for place in where:
            at[place].append(number)
    return [
        Columns.of(
            [
                Terms(terms=tuple(each), id=1, id_time=0, trace=NO_TRACE, occurred_at=0)
                for each in at[start : start + TILE]
            ]
        )
        for start in range(0, size, TILE)
    ]


@settings(deadline=None, max_examples=30)
@given(
    st.dictionaries(
        st.integers(0, 2**63 - 1),
        st.lists(st.integers(0, 3 * TILE - 1), min_size=1, max_size=9, unique=True).map(sorted),
        min_size=1,
        max_size=600,
    )
)
def test_every_term_is_found_at_its_places(places: dict[int, list[int]]) -> None:
    """The index of a closed segment offers each entry under each of its terms, and no other."""
    collected = Postings.collect(tiles_of(dict(places), 3 * TILE))
    pages = list(Postings.pages(collected))

    assert places == {number: list(where) for number, where in collected.items()}
    assert places == {n: list(w) for _, page in pages for n, w in Postings.read(page)}
    assert sorted(least for least, _ in pages) == [least for least, _ in pages]
    for number, where in places.items():
        page = next(page for least, page in reversed(pages) if least <= number)
        found = Postings.find(page, number)
        assert found is not None
        assert where == list(found)
        if number + 1 not in places:
            assert Postings.find(page, number + 1) is None


@pytest.mark.parametrize("count", [1, 4095, 4096, 4097, 40_000, SEGMENT])
def test_frequent_terms_are_found_like_rare_ones(count: int) -> None:
    """Whether places are listed or drawn as a map of bits, they come back the same."""
    chosen = sorted(random.Random(count).sample(range(SEGMENT), count))
    made = {5: array("H", [7]), 6: array("H", chosen), 9: array("H", [0, SEGMENT - 1])}

    ((least, page),) = Postings.pages(made)

    assert 5 == least
    assert made == dict(Postings.read(page))
    assert made == {number: Postings.find(page, number) for number in made}
    assert None is Postings.find(page, 7)


def test_terms_of_few_values_are_counted() -> None:
    """Only fields with few values are counted beforehand, with the place of one entry each."""
    action, actor = term(Field.ACTION, "invoice.pay"), term(Field.ACTOR, "user:alice")

    assert {action: (3, 2)} == Postings.few({action: array("H", [2, 5, 9]), actor: array("H", [2])})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda page: page[:-1],
        lambda page: page + b"\0",
        lambda page: page[:20],
        lambda page: page[:2],
        lambda page: page[:1],
        lambda _: b"",
        lambda page: b"\0\0" + page[2:],
        lambda page: b"\xff\xff" + page[2:],
        lambda page: page[:18] + b"\x05" + page[19:],
    ],
)
def test_a_damaged_page_of_postings_is_not_read(spoil: object) -> None:
    """A page whose parts do not fit together is named, not guessed at."""
    ((_, page),) = Postings.pages({5: array("H", [7]), 6: array("H", range(300))})

    with pytest.raises(Damaged, match="postings"):
        list(Postings.read(spoil(page)))  # type: ignore[operator]


def test_a_page_that_is_cut_short_does_not_find_fewer_places() -> None:
    """A search in a damaged page fails rather than leaving entries out."""
    ((_, page),) = Postings.pages({5: array("H", [7]), 6: array("H", range(300))})

    for end in range(len(page)):
        with pytest.raises(Damaged):
            Postings.find(page[:end], 6)


# ---- Filter ----


@given(st.lists(numbers, max_size=300))
def test_a_filter_never_denies_a_term_that_is_there(made: list[int]) -> None:
    """A segment is only skipped if it holds nothing of what is looked for."""
    data = Filter.build(set(made))

    assert all(Filter.may_hold(data, number) for number in made)
    assert len(data).bit_count() == 1


@pytest.mark.parametrize("size", [0, 3, 255])
def test_a_filter_of_another_length_is_damaged(size: int) -> None:
    """A filter that was cut denies nothing; it is named."""
    with pytest.raises(Damaged, match=f"^filter: found {size} bytes"):
        Filter.may_hold(bytes(size), 5)


def test_a_filter_denies_most_terms_that_are_not_there() -> None:
    """Hardly any segment is opened for nothing."""
    chance = random.Random(1)
    made = {chance.getrandbits(63) for _ in range(20_000)}
    others = [chance.getrandbits(63) for _ in range(20_000)]

    data = Filter.build(made)

    assert sum(Filter.may_hold(data, number) for number in others) < 400


# ---- Spans, terms and the manifest ----


@given(st.lists(st.integers(), min_size=1), st.integers(), st.integers(1, 100))
def test_a_span_meets_every_range_that_holds_one_of_its_numbers(
    made: list[int], first: int, width: int
) -> None:
    """Times never hide an entry: a span is skipped only if none of its numbers is asked for."""
    span = Span.of(made)

    assert Span(min(made), max(made)) == span == Span.over([Span.of([each]) for each in made])
    if any(first <= number < first + width for number in made):
        assert span.meets(first, first + width)
    assert not span.meets(span.most + 1, span.most + 1 + width)
    assert not span.meets(span.least - width, span.least)


@given(st.sampled_from(Field), st.text(st.characters(codec="utf-8")))
def test_a_term_names_its_field(field: Field, text: str) -> None:
    """Terms are numbers of 63 bits that say what they are about, the same for the same text."""
    number = term(field, text)

    assert 0 <= number < 2**63
    assert field == field_of(number)
    assert number == term.__wrapped__(field, text)
    assert NO_TRACE < fingerprint(text) < 2**32


def test_fields_with_few_values_leave_out_what_names_people_and_things() -> None:
    """Only what does not grow with the number of entries is counted beforehand."""
    assert FEW_VALUES.isdisjoint({Field.ACTOR, Field.RESOURCE, Field.SESSION})


def manifest(**changed: object) -> Segment:
    """Return what a head keeps of a segment."""
    fields = {
        "log": "user",
        "number": 3,
        "root": bytes(32),
        "file_hash": bytes(32),
        "file_size": 1,
        "recorded": Span(1, 2),
        "occurred": Span(3, 4),
        "id_times": Span(5, 6),
        "filter": Filter.build([1]),
        "counts": {21: (1, 2), 5: (3, 4)},
        **changed,
    }
    return Segment(**fields)  # type: ignore[arg-type]


def test_all_that_a_segment_is_skipped_by_has_one_hash() -> None:
    """Times, counts and filter of a closed segment are fixed by what the custody stream names."""
    whole = manifest().index_hash

    assert 3 * SEGMENT == manifest().first
    assert whole == manifest(counts={5: (3, 4), 21: (1, 2)}).index_hash
    assert whole not in {
        manifest(recorded=Span(1, 3)).index_hash,
        manifest(occurred=Span(2, 4)).index_hash,
        manifest(id_times=Span(5, 7)).index_hash,
        manifest(filter=Filter.build([0x550])).index_hash,
        manifest(counts={5: (3, 4), 21: (1, 3)}).index_hash,
    }


@given(st.lists(st.lists(st.integers(0, 2**63 - 1), max_size=5), max_size=20))
def test_lookups_are_kept_in_the_order_of_their_entries(made: list[list[int]]) -> None:
    """What committed values are found by comes back as it was, apart from the log's own terms."""
    lookups = Lookups.of(made)

    again = Lookups.from_bytes(len(made), lookups.to_bytes())

    assert lookups == again
    assert lookups == Lookups.joined([Lookups.of([each]) for each in made])


def test_an_entry_may_have_more_lookups_than_a_byte_counts() -> None:
    """A searchable list of many texts is found by each of them."""
    many = [term(Field.VALUE_LOOKUP, str(number)) for number in range(1_000)]
    lookups = Lookups.of([[], many, [many[7]]]).to_bytes()
    columns = Columns.of(
        [Terms(terms=(), id=1, id_time=0, trace=0, occurred_at=0) for _ in range(3)]
    ).to_bytes()

    found = find_in_columns(columns, 3, [[many[7]]], lookups)
    last = find_in_columns(columns, 3, [[many[999]]], lookups)

    assert {1, 2} == found
    assert {1} == last


def test_lookups_that_do_not_fit_are_damaged() -> None:
    """Bytes that were cut off or added are no answer."""
    data = Lookups.of([[1, 2], [3]]).to_bytes()

    for other in (data[:-1], data + b"\0", data[:1]):
        with pytest.raises(Damaged):
            Lookups.from_bytes(2, other)
