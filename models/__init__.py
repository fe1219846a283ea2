"""What is learned from the patches; knows nothing of files."""
