"""Tests of the checks of answers."""
