"""report.json, report.html and what they are drawn from."""
