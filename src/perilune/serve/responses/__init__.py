"""OpenAI's Responses API, without state: `schema.py`, `request.py`, `events.py`, `routes.py`.

Source: the types of OpenAI's SDK, as of 2026-11. Nothing is stored: a client sends the whole input.
"""
