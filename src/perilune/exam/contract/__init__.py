"""The contract suite: what a server of the OpenAI and Anthropic APIs must do, one check a rule.

It knows a server by its URL only. Reading order: `check` (what a check is), `sse` and `target` (how
a server is asked), `scenarios` and `chat_stream` (the streaming rules), then one file a subject,
`runner` and `report`. Rules are those that OpenAI, Anthropic and Moonshot publish; the words and
the cases are our own.
"""
