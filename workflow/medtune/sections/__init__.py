"""The sections of a configuration: keys, defaults, limits and documentation."""
