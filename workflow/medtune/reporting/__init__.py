"""The report: tables, plots, case gallery."""
