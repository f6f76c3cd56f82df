"""How good the models are: the evaluation document and its page."""
