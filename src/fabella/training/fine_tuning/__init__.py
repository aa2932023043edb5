"""Fine-tuning: requests whose run begins with the weights of another run."""
