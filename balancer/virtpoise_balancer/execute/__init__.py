"""Carries plans out. The only place that changes the world."""
