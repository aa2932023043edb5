"""The run folder: config, manifest, tokenizer, metrics, samples, checkpoints.

RUN/
  config.yaml       the run, resolved, with the sha256 of its lines; written last when a run is made
  manifest.json     versions, hardware, fingerprints of data, tokenizer and code
  tokenizer/        a copy, so that the folder alone can generate
  metrics.jsonl     one measurement a line: the truth that every plot is drawn from
  samples.jsonl     what the model told while it was trained
  checkpoints/
    step-00001000/  model.safetensors  optimizer.safetensors  state.json  manifest.json
  tensorboard/      event files, where tracking.tensorboard is on
  wandb/, wandb-id  what Weights & Biases keeps here, and the name it knows the run by, where tracking.wandb is on
  latest, best      plain text: the name of a checkpoint
  .lock             held by the process that trains here
"""
