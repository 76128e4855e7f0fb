"""Reinforcement learning with verifiable rewards: rollouts, advantages, objective."""
