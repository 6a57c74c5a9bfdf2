"""The metrics of `evaluate`, one module a question that is asked of a generated set."""
