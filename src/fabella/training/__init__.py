"""Train a model: start or resume a run, feed the engine, and call the callbacks."""
