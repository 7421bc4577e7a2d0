"""The command line: what the rules call, and verbs for people."""
