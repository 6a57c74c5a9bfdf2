"""Reinforcement learning of a layout-to-image model: rollouts, advantages, updates, safety."""
