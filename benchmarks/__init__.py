"""The benchmark: the service beside the web server's own limit and what people use instead."""
