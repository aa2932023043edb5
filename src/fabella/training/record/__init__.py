"""What a training records about itself in its run."""
