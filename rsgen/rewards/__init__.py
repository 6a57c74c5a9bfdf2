"""Rewards of generated images: scorers with a weight, their banks, and the controls."""
