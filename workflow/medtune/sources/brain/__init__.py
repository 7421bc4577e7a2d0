"""Brain MRI: one module for each layout."""
