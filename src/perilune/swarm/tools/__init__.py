"""The tools of an orchestrator: K2.5's two, and two helpers for many reports."""
