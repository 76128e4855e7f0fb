"""Request bodies with half a character are answered, their text made valid."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perilune.serve.api_error import ApiError
from perilune.serve.http import HttpRequest, encode

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)


@given(ANY_TEXT, st.booleans())
def test_every_text_in_a_body_is_read_as_valid_text(text: str, escaped: bool) -> None:
    value = {"messages": [{"content": text}], text: 1}
    data = json.dumps(value, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    read = HttpRequest("POST", "/", body=data).json()
    json.dumps(read, ensure_ascii=False).encode()


@given(ANY_TEXT)
def test_every_reply_is_valid_utf8(text: str) -> None:
    json.loads(encode({"choices": [{"text": text}]}).decode())
    assert b"\\ud" not in encode({"text": "\ud83d"}).lower()


def test_a_half_becomes_the_replacement_character() -> None:
    body = b'{"a": "x\\ud83d", "b": "\\ud83d\\ude00", "c": "\xed\xa0\xbd"}'
    assert HttpRequest("POST", "/", body=body).json() == {"a": "x\ufffd", "b": "😀", "c": "\ufffd"}


@pytest.mark.parametrize(
    "body",
    [b'{"a": "\\ud83d", "b": NaN}', b'{"a": "\\ud83d"', b'{"a": "\xff"}', b"\\ud83d", b'"\xed\xa0',
     b'{"a": "\\ud83d", "b": ' + b"[" * 2000 + b"]" * 2000 + b"}"],
)  # fmt: skip
def test_what_is_no_json_is_refused_all_the_same(body: bytes) -> None:
    with pytest.raises(ApiError):
        HttpRequest("POST", "/", body=body).json()
