"""Anthropic's Messages API: `schema.py`, `request.py`, `events.py`, `routes.py`.

Source: the types of Anthropic's SDK and its API reference, as of 2026-11.
"""
