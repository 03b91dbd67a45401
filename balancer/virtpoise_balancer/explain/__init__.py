"""Answers "why" and "why not" in words."""
