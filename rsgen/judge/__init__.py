"""The judge: a small detector trained on the user's own images, to measure and to screen."""
