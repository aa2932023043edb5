"""What runs a model: the contract in engine.py, and one file of it for each framework."""
