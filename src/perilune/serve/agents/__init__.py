"""The agent as a tool of other programs: MCP and Agent2Agent."""
