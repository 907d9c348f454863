"""Instant views, a small function for each method that has one."""
