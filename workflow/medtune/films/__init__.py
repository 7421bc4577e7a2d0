"""Chest films on their way to a data set, a shard of one source at a time."""
