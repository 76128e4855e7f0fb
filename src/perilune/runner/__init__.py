"""What computes a step, and where its weights lie: batch, cache storage, runners, selection."""
