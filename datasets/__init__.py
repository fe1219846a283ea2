"""Where the patches lie and how they are read; knows nothing of models."""
