"""``report.html``: a run, or several side by side, on one page that needs no other file."""
