"""Chest-film sources: one module per data set, each yields `Film`s."""
