"""Pictures of a run: by hash in its events and messages, as files in its folder."""
