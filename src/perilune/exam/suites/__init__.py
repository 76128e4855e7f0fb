"""Suites of questions put to a model, judged by their own rules, with statistics.

See docs/exam.md.
"""
