"""The `argue` tool."""
