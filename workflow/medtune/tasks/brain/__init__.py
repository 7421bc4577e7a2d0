"""Tasks on brain MRI."""
