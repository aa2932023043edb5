"""Architectures of Hugging Face and the families that they are. One file each; ``architecture`` has the contract."""
