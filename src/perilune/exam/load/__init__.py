"""Load on a server: how fast it answers, for one and for many, and how often in time.

Reading order: `plan` (what is asked, and when), `client` (one request and its times), `run` (all of
them), `report` (what the times say).
"""
