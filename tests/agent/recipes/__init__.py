"""Tests of recipes, effort and their tools."""
