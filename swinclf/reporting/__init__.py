"""Reporting without torch: metrics files, plots and the HTML report."""
