"""The run directory: config, manifest, tokenizer, metrics, samples, checkpoints.

RUN/
  config.yaml       resolved config with the sha256 of its lines; written last when a run is created
  manifest.json     versions, hardware, fingerprints of data, tokenizer and code
  tokenizer/        copy of the tokenizer, so that the directory is enough to generate
  metrics.jsonl     one row of metrics per line; every plot is drawn from it
  samples.jsonl     completions generated while training
  checkpoints/
    step-00001000/  model.safetensors  optimizer.safetensors  state.json  manifest.json
  failures/         non-finite steps with their batch and state, for fabella replay-step
  tensorboard/      event files, if tracking.tensorboard is on
  wandb/, wandb-id  files and run id of Weights & Biases, if tracking.wandb is on
  latest, best      pointers: the name of a checkpoint as plain text
  .lock             locked by the process that trains; .lock-holder names it
"""
