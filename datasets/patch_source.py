"""What every store of patches offers, and how the one behind ``--data_dir`` is found."""
