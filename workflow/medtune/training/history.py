"""Where a training stage leaves its log entries."""

HISTORY = "history.json"
