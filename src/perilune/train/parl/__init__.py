"""Parallel-agent reinforcement learning (PARL): when to split a task, and how far."""
