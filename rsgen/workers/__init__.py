"""Programs of the user's that answer questions in their own environment and process."""
