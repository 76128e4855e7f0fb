"""The whole network by the C library, in one call a step."""
