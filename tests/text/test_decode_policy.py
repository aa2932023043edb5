"""Tests that damage in a document is refused with its location, replaced, or dropped, and always counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.errors import TextError
from fabella.text import decode_policy
from fabella.text.decode_policy import LONGEST_DOCUMENT, DecodePolicy, iter_blocks


def where(raw: bytes, at: int) -> str:
    return f"stories.txt, byte {at + 1}"


def texts(policy: DecodePolicy, raw: bytes) -> list[str]:
    return list(policy.text(raw, where))


def test_undamaged_text_is_unchanged() -> None:
    policy = DecodePolicy()
    assert texts(policy, "Grüße, 🦊!\n\n<|endoftext|>".encode()) == ["Grüße, 🦊!\n\n<|endoftext|>"]
    assert policy.notes.counts() == dict.fromkeys(policy.notes.counts(), 0) | {"documents": 1}


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"caf\xe9 noir", r"stories.txt, byte 4: 0xE9 after 'caf' is not UTF-8\. Repair it"),
        (b"caf\xed\xb2\x81 noir", "byte 4: the byte 0x81 after 'caf' means nothing in the encoding of the file"),
        (b"\xfftext", r"stories.txt, byte 1: 0xFF is not UTF-8"),
        (b"one\0two", "stories.txt, byte 4: a NUL character after 'one'; text must not contain any."),
        (b"one \xed\xa0\xbd two", r"byte 5: a lone surrogate \(half a character\) after 'one '; it is not valid"),
        (b"the end \xf0\x9f\xa6", "byte 9: 0xF0 after 'the end ' is not UTF-8"),
        (b"\xc0\xaf", "byte 1: 0xC0 is not UTF-8"),
        (b"line one\nline two \x96 x", "0x96 after 'line two ' is not UTF-8. Repair it"),
    ],
)
def test_strict_names_location_and_bytes(raw: bytes, problem: str) -> None:
    with pytest.raises(TextError, match=problem + r".*--decode-errors replace .* or skip"):
        texts(DecodePolicy(), raw)


@pytest.mark.parametrize(
    ("raw", "text", "replaced"),
    [
        (b"caf\xe9 noir", "caf\ufffd noir", 1),
        (b"a\0b\0", "a\ufffdb\ufffd", 2),
        (b"\xed\xa0\xbd!", "\ufffd!", 1),
        ("was \ufffd before ".encode() + b"\xff", "was \ufffd before \ufffd", 1),
    ],
)
def test_replace_inserts_u_fffd_and_counts_it(raw: bytes, text: str, replaced: int) -> None:
    policy = DecodePolicy(decode_errors="replace")
    assert texts(policy, raw) == [text]
    assert (policy.notes.damaged, policy.notes.replaced, policy.notes.skipped) == (1, replaced, 0)
    assert len(policy.notes.examples) == 1


def test_skip_drops_the_document_and_counts_it() -> None:
    policy = DecodePolicy(decode_errors="skip")
    assert [*texts(policy, b"good"), *texts(policy, b"b\xffd"), *texts(policy, b"fine")] == ["good", "fine"]
    assert (policy.notes.documents, policy.notes.damaged, policy.notes.skipped) == (2, 1, 1)


@pytest.mark.parametrize("raw", [b"", b" ", b"\n\n\t", "\u2003\u3000".encode()])
def test_a_document_without_a_visible_character_is_skipped(raw: bytes) -> None:
    policy = DecodePolicy()
    assert texts(policy, raw) == []
    assert policy.notes.empty == 1


def test_line_ends_become_newlines() -> None:
    policy = DecodePolicy()
    assert texts(policy, b"one\r\ntwo\rthree\nfour") == ["one\ntwo\nthree\nfour"]
    assert policy.notes.carriage_returns == 2


@given(st.binary(max_size=200), st.sampled_from(["strict", "replace", "skip"]))
def test_decoded_documents_are_always_valid_unicode(raw: bytes, invalid: decode_policy.DecodeErrors) -> None:
    try:
        found = texts(DecodePolicy(decode_errors=invalid), raw)
    except TextError:
        assert invalid == "strict"
        return
    for text in found:
        assert text.encode().decode() == text
        assert "\0" not in text
        assert "\r" not in text
        assert text.strip()


@given(st.text(st.characters(blacklist_categories=()), max_size=100))
def test_decoded_text_may_contain_lone_surrogates(text: str) -> None:
    for cleaned in DecodePolicy(decode_errors="replace").decoded_text(text, where):
        assert cleaned.encode().decode() == cleaned


def test_a_long_document_is_cut_into_parts_and_reported() -> None:
    words = b"once upon a time there was a fox "
    raw = words * (3 * LONGEST_DOCUMENT // len(words))
    policy = DecodePolicy()
    found = texts(policy, raw)
    assert "".join(found).encode() == raw
    assert max(len(text) for text in found) <= LONGEST_DOCUMENT
    assert all(text.endswith(" ") for text in found)
    assert policy.notes.cut == 1
    assert "1 document longer than 1 MiB, cut into several" in policy.notes.messages()


@given(st.lists(st.sampled_from(["ä", "🦊", "x" * 7, " ", "\n", "\n\n"]), min_size=1, max_size=60), st.integers(8, 40))
def test_parts_join_to_the_document_and_never_cut_a_character(parts: list[str], longest: int) -> None:
    raw = "".join(parts).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_policy, "LONGEST_DOCUMENT", longest)
        cuts = list(iter_blocks(raw))
    assert b"".join(raw[start:end] for start, end in cuts) == raw
    assert all(0 < end - start <= longest for start, end in cuts)
    assert [raw[start:end].decode() for start, end in cuts]


def test_a_part_ends_at_the_best_border(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_policy, "LONGEST_DOCUMENT", 20)
    raw = b"aaaa bbbb\n\ncccc dddd eeee ffff gggg"
    assert [raw[start:end] for start, end in iter_blocks(raw)] == [b"aaaa bbbb\n\n", b"cccc dddd eeee ffff ", b"gggg"]


def test_the_location_of_damage_in_a_later_part_counts_from_the_start_of_the_document() -> None:
    raw = b"a " * LONGEST_DOCUMENT + b"\xff"
    with pytest.raises(TextError, match=f"byte {2 * LONGEST_DOCUMENT + 1}: 0xFF"):
        texts(DecodePolicy(), raw)


def test_more_bad_lines_than_allowed_fail() -> None:
    policy = DecodePolicy(max_bad_lines=2)
    policy.bad_line("a.jsonl, line 3", "it is not JSON.")
    policy.bad_line("a.jsonl, line 4", "it is not JSON.")
    with pytest.raises(TextError) as error:
        policy.bad_line("a.jsonl, line 9", "it is not JSON.")
    assert str(error.value) == (
        "a.jsonl, line 9: it is not JSON. It exceeds --max-bad-lines 2. "
        "Repair it, or skip up to 20 such lines: --max-bad-lines 20. check-data counts them."
    )
    assert policy.notes.bad_lines == 2
    assert policy.notes.examples[0] == "a.jsonl, line 3: it is not JSON."


def test_without_a_limit_the_first_bad_line_fails() -> None:
    words = r"line 3: broken\. Repair it, or skip up to 10 such lines: --max-bad-lines 10\."
    with pytest.raises(TextError, match=words):
        DecodePolicy().bad_line("a.jsonl, line 3", "broken.")
