"""One evaluation: its settings, the sets it was given, whether they belong together, and what came of it."""
