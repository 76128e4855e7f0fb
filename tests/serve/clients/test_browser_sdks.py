"""The browser builds of OpenAI's and Anthropic's SDKs, from npm, in Chromium, unmodified.

A page of another origin asks the server through them. npm fetches them into a folder of the test's
own, so this runs with the long tests and in `make test-clients`; `test_cors.py` always runs, with
the headers that were seen here.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from perilune.chat.format import ChatFormat
from perilune.engine.async_engine import AsyncEngine
from perilune.serve.settings import Settings

from ..pages import needs_chromium, opened, page_server
from ..scripted import Scripted, Turn, scripted_engine
from ..servers import socket_server
from ..test_cors import SDK_HEADERS

PACKAGES = ("openai@7.59.0", "@anthropic-ai/sdk@1.14.0", "esbuild@0.28.2")
SOURCE = """
import OpenAI from "openai";
import Anthropic from "@anthropic-ai/sdk";
const hi = [{role: "user", content: "Hi"}];
async function text(stream, of) {
  let t = "";
  for await (const e of stream) t += of(e) ?? "";
  return t;
}
const sent = new Set();
const fetching = (url, init) => {
  new Headers(init.headers).forEach((_, name) => sent.add(name));
  return window.fetch(url, init);
};
async function failure(run) {
  try { await run(); return null; }
  catch (e) { return {status: e.status, kind: e.constructor.name, id: e.requestID ?? null}; }
}
window.run = async (base, key) => {
  const openai = new OpenAI({baseURL: base + "/v1", apiKey: key, dangerouslyAllowBrowser: true,
    organization: "org", project: "proj", maxRetries: 0, fetch: fetching});
  const anthropic = new Anthropic({baseURL: base, apiKey: key, dangerouslyAllowBrowser: true,
    maxRetries: 0, fetch: fetching, defaultHeaders: {"anthropic-beta": "x-2025-01-01"}});
  const wrong = new OpenAI({baseURL: base + "/v1", apiKey: "not-the-right-key",
    dangerouslyAllowBrowser: true, maxRetries: 0, fetch: fetching});
  const chat = {model: "tiny", messages: hi};
  const message = {model: "tiny", max_tokens: 100, messages: hi};
  const first = openai.chat.completions.create(chat).withResponse();
  const found = {
    chat: (await first).data.choices[0].message.content,
    id: (await first).request_id,
    chatStream: await text(await openai.chat.completions.create({...chat, stream: true}),
      e => e.choices[0]?.delta.content),
    responses: (await openai.responses.create({model: "tiny", input: "Hi"})).output_text,
    models: (await openai.models.list()).data.map(m => m.id),
    idempotent: (await openai.chat.completions.create(chat,
      {idempotencyKey: "k1"})).choices[0].message.content,
    message: (await anthropic.messages.create(message)).content.map(b => b.text ?? "").join(""),
    messageStream: await anthropic.messages.stream(message).finalText(),
    count: (await anthropic.messages.countTokens({model: "tiny", messages: hi})).input_tokens,
    errors: {
      key: await failure(() => wrong.chat.completions.create(chat)),
      model: await failure(() => openai.chat.completions.create({...chat, model: "other"})),
      route: await failure(() => openai.embeddings.create({model: "tiny", input: "x"})),
      field: await failure(() => anthropic.messages.create({...message, max_tokens: -1})),
    },
  };
  return {...found, sent: [...sent].sort()};
};
"""


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Both SDKs as one script for a page."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not here")
    folder = tmp_path_factory.mktemp("sdks")
    (folder / "page.js").write_text(SOURCE)
    (folder / "package.json").write_text(json.dumps({"private": True}))
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"npm cannot get the packages: {done.stderr[-300:]}")
    binary = folder / "node_modules" / ".bin" / "esbuild"
    build = [binary, "page.js", "--bundle", "--platform=browser", "--format=iife",
             "--outfile=out.js"]  # fmt: skip
    subprocess.run(build, cwd=folder, check=True, capture_output=True, timeout=120)
    return Path(folder, "out.js").read_bytes()


@pytest.mark.slow
@needs_chromium
def test_both_sdks_work_in_a_page_of_a_listed_origin(
    bundle: bytes, chat_format: ChatFormat
) -> None:
    html = b"<!doctype html><title>x</title><script src=/out.js></script>"
    files = {"/": ("text/html", html), "/out.js": ("text/javascript", bundle)}
    script = Scripted(lambda prompt: Turn("Hello from here!", reasoning="Hm."))
    with page_server(files) as origin, page_server(files) as other:
        settings = Settings(cors_origin=(origin,), api_key=("a-key-of-mine",))

        def make() -> AsyncEngine:
            return AsyncEngine(scripted_engine(script, chat_format))

        with socket_server(make, settings) as url:
            with opened(origin) as page:
                found: dict[str, Any] = page.evaluate(
                    "([base, key]) => run(base, key)", [url, "a-key-of-mine"]
                )
            with opened(other) as page, pytest.raises(Exception, match="onnection error"):
                page.evaluate("([base, key]) => run(base, key)", [url, "a-key-of-mine"])
    said = "Hello from here!"
    for name in ("chat", "chatStream", "responses", "idempotent", "message", "messageStream"):
        assert found[name] == said, name
    assert set(found["sent"]) <= set(SDK_HEADERS), sorted(set(found["sent"]) - set(SDK_HEADERS))
    assert found["models"] == ["tiny"] and found["count"] > 0
    assert found["id"].startswith("req-")  # readable for the page
    errors = {name: (e["status"], e["kind"]) for name, e in found["errors"].items()}
    assert [status for status, _ in errors.values()] == [401, 404, 404, 400], errors
    assert all(kind != "APIConnectionError" for _, kind in errors.values())
