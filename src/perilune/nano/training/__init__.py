"""What `nano` learns from: short episodes over fresh worlds, played with two tools."""
