"""Whole experiments and measurements, each one command."""
