"""Recipes: how the agent goes about a kind of task. A folder each; see `recipe.py`."""
