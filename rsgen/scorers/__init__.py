"""Scorers: one float an image or an instance. A filter rule is a scorer with a bound."""
