"""Diffusion models: where they come from, what they can do, and the one sampling loop."""

import os

# Read by the libraries when they are first imported; their advice (install torchvision, ...)
# is not for our users. A value that the user has set wins.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
