"""Tests; a package, so that no installed one takes its generic name."""
