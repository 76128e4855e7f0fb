"""One reading of endpoint URLs: what is clear is taken, else it is said what to write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perilune.agent.models.endpoint_url import read_endpoint_url
from perilune.errors import UsageError

L = "http://localhost:8000/v1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://localhost:8000", L),
        ("http://localhost:8000/", L),
        ("http://localhost:8000/v1", L),
        ("http://localhost:8000/v1/", L),
        ("  http://localhost:8000/v1/chat/completions \n", L),
        ("http://localhost:8000/v1/chat/completions/", L),
        ("http://localhost:8000/chat/completions", L),
        ("http://localhost:8000//v1//chat/completions", L),
        ("http://localhost:8000/v1/completions", L),
        ("http://localhost:8000/v1/models", L),
        ("http://localhost:8000/v1/models/kimi-k2", L),
        ("http://localhost:8000/v1/messages", L),
        ("http://localhost:8000/v1/responses", L),
        ("http://localhost:8000/v1/chat", L),
        ("http://localhost:8000/health", L),
        ("http://localhost:8000/docs", L),
        ("http://localhost:8000/v1#chat", L),
        ("'http://localhost:8000/v1'", L),
        ("<http://localhost:8000/v1>", L),
        ("HTTP://localhost:8000/v1", L),
        ("localhost:8000", L),
        ("localhost:8000/v1/chat/completions", L),
        ("127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("[::1]:8000", "http://[::1]:8000/v1"),
        ("gpu-box:8000/v1", "http://gpu-box:8000/v1"),
        ("host.docker.internal:11434", "http://host.docker.internal:11434/v1"),
        ("http://localhost:11434", "http://localhost:11434/v1"),
        ("http://localhost:11434/api", "http://localhost:11434/v1"),
        ("http://localhost:11434/api/chat", "http://localhost:11434/v1"),
        ("http://localhost:1234/api/v0", "http://localhost:1234/v1"),
        ("api.moonshot.ai", "https://api.moonshot.ai/v1"),
        ("https://api.moonshot.ai/v1", "https://api.moonshot.ai/v1"),
        ("https://api.moonshot.cn/v1/chat/completions", "https://api.moonshot.cn/v1"),
        ("https://openrouter.ai/api", "https://openrouter.ai/api/v1"),
        ("https://openrouter.ai/api/v1/chat/completions", "https://openrouter.ai/api/v1"),
        ("https://api.z.ai/api/paas/v4", "https://api.z.ai/api/paas/v4"),
        ("https://api.deepseek.com/beta", "https://api.deepseek.com/beta"),
        (
            "https://generativelanguage.googleapis.com/v1beta/openai/",
            "https://generativelanguage.googleapis.com/v1beta/openai",
        ),
        (
            "https://x.openai.azure.com/openai/deployments/k2/chat/completions?api-version=2024-10-21",
            "https://x.openai.azure.com/openai/deployments/k2?api-version=2024-10-21",
        ),
    ],
)
def test_what_is_clear_is_taken(text: str, expected: str) -> None:
    url = read_endpoint_url(text)
    assert str(url) == expected
    assert str(read_endpoint_url(str(url))) == expected, "reading it again changes nothing"


def test_the_query_goes_with_every_request() -> None:
    url = read_endpoint_url("https://x.azure.com/openai/v1/?api-version=preview")
    assert url.base == "https://x.azure.com/openai/v1"
    assert url.route("models") == "https://x.azure.com/openai/v1/models?api-version=preview"


@pytest.mark.parametrize(
    "text",
    ["", " ", "ftp://x", "http://", "http:/localhost:8000", "http:localhost", "kimi-k2", "./model",
     "my model", "http://a b", "http://x:port", "http://x:99999", "/v1", "file:///etc/passwd",
     "C:\\models", "http://[::1", "http://.x", "http://a..b/v1"],
)  # fmt: skip
def test_what_is_not_clear_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_endpoint_url(text)
    assert "http://localhost:8000/v1" in caught.value.remedy


def test_a_key_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="key") as caught:
        read_endpoint_url("https://user:sk-secret@api.moonshot.ai/v1")
    assert "sk-secret" not in str(caught.value)


@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=30))
@pytest.mark.parametrize("before", ["", "http://", "https://x", "http://[", "localhost:"])
def test_any_text_is_a_url_or_a_usage_error(before: str, text: str) -> None:
    try:
        url = read_endpoint_url(before + text)
    except UsageError:
        return
    assert url.base.startswith(("http://", "https://"))
    assert url.host
    url.route("models").encode()
