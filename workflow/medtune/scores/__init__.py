"""Scores of answers about films: texts, labels, boxes, and those that need a model."""
