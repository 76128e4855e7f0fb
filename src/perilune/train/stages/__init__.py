"""The stages of the recipe, as functions over one configuration."""
