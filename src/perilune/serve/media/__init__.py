"""Pictures and clips of requests: read from every API's parts, bounded, and fetched where allowed.

`parts` reads them, `admission` opens them; what is wrong with one is named in `serve.media_faults`.
"""
