"""What both sides need: flags, augmentation, checkpoints, reports."""
