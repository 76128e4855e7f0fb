"""The `publish` tool."""
