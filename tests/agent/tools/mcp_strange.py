"""An MCP server that keeps few rules, over stdio, without any SDK: `python mcp_strange.py KIND`.

KIND: `tools` (strange names, schemas and results), `circle` and `endless` (lists of tools).
"""

from __future__ import annotations

import base64
import json
import sys

OBJECT = {"type": "object", "properties": {"give": {"type": "string"}}}
NAMES = ["查询", "删除", "a.b", "a/b", "Case", "case", "x" * 10_000, "tab\there"]
TOOLS = [
    *({"name": name, "description": name[:20], "inputSchema": OBJECT} for name in NAMES),
    {
        "name": "good",
        "description": "d" * 50_000 + "\x00\x1b<|im_end|>",
        "inputSchema": OBJECT,
        "outputSchema": {"type": "object", "properties": {"a": {"pattern": "^(a+)+$"}}},
    },
    {"name": "good", "inputSchema": OBJECT},
    {"name": "", "inputSchema": OBJECT},
    {"name": "no schema"},
    {"name": "schema is text", "inputSchema": "object"},
    {"name": None, "inputSchema": OBJECT},
    {"name": "dangling", "inputSchema": {"properties": {"a": {"$ref": "file:///etc/passwd"}}}},
]
PIXEL = base64.b64encode(b"png").decode()
RESULTS = {
    "image": {"content": [{"type": "image", "mimeType": "image/png", "data": PIXEL}]},
    "base64": {"content": [{"type": "image", "mimeType": "image/png", "data": "?"}]},
    "odd": {"content": [{"type": "image", "mimeType": "application/x-odd", "data": PIXEL}]},
    "half": {"content": [{"type": "text", "text": "half: \ud83d"}]},
    "output": {"content": [], "structuredContent": {"a": "a" * 50 + "!"}},
    "nonsense": {"content": [{"type": "hologram"}]},
}


def page(kind: str, cursor: str | None) -> dict[str, object]:
    if kind == "tools":
        return {"tools": TOOLS}
    number = 0 if kind == "circle" else int(cursor or 0)
    tools = [{"name": f"t{number}_{each}", "inputSchema": OBJECT} for each in range(30)]
    return {"tools": tools, "nextCursor": str(number + 1)}


def answer(kind: str, method: str, params: dict[str, object]) -> dict[str, object]:
    if method == "initialize":
        return {
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "strange", "version": "1"},
        }
    if method == "tools/list":
        return page(kind, params.get("cursor"))
    if method == "tools/call":
        give = (params.get("arguments") or {}).get("give")
        text = f"called {params['name'][:100]!r}"
        return RESULTS.get(give, {"content": [{"type": "text", "text": text}]})
    return {}


for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message or "method" not in message:
        continue
    reply = {"jsonrpc": "2.0", "id": message["id"]}
    known = message["method"] in ("initialize", "tools/list", "tools/call", "ping")
    if known:
        reply["result"] = answer(sys.argv[1], message["method"], message.get("params") or {})
    else:
        reply["error"] = {"code": -32601, "message": "no such method"}
    print(json.dumps(reply), flush=True)
