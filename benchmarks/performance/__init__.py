"""Measurements of time and memory: the layer, the servers, the request logs, the commands and `verify`."""
