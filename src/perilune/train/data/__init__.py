"""Documents for training: pure functions of an index, mixed by a seeded hash, made ahead of time.

No torch in here: the worker processes start quickly and stay small.
"""
