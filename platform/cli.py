"""Placeholder during bootstrap."""
