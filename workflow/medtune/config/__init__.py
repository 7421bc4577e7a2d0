"""The typed configuration: its sections, how a file is read, and what each stage reads of it."""
