"""Pages of the web: fetched through a guard, turned into text."""
