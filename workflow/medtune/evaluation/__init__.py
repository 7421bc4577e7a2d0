"""Predictions, scores and statistics."""
