"""Training: ``steps`` tells the story; choice, gates, report and card are its chapters."""
