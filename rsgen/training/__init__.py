"""Parts of the training programs: the loop, objectives, saved state, validation, curves."""
