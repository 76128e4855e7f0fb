"""The engine on the wire: OpenAI's and Anthropic's APIs, metrics, health.

Read in this order: `request.py` (what is asked), `stream.py` (what comes back), `service.py` (the
way through the engine), `http.py` (a route without a framework), `app.py` (the routes on FastAPI,
behind the guards), then one file for each API.
"""
