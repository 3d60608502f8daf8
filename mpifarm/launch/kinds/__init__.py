"""The ways in which an attempt runs, a module for each, and what they have in common."""
