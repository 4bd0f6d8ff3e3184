"""Kubernetes watches that cannot hang."""

__version__ = "0.1.0"
