"""report.json, report.html and the images that they are drawn from."""
