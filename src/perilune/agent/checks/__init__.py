"""Checks of proposed answers, one a file; `verify.py` says what a check is."""
