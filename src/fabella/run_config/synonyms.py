"""Names of other tools (Hugging Face, nanoGPT, litgpt, Lightning, llama.cpp) for our settings."""

from collections.abc import Iterable

from fabella.errors import did_you_mean

SYNONYMS: dict[str, tuple[str, ...]] = {
    "optimizer.lr": ("learning_rate", "lr_max", "max_lr", "peak_lr", "base_lr"),
    "optimizer.weight_decay": ("weight_decay", "wd"),
    "optimizer.max_grad_norm": (
        "max_grad_norm", "grad_clip", "clip", "gradient_clip_val", "clip_grad_norm", "gradient_clipping", "clip_norm",
    ),
    "optimizer.betas": ("beta1", "beta2", "adam_beta1", "adam_beta2"),
    "optimizer.kind": ("optimizer", "optim"),
    "optimizer.average.kind": ("ema", "use_ema", "swa", "model_ema", "weight_averaging", "weight_average"),
    "optimizer.average.decay": ("ema_decay", "ema_rate"),
    "optimizer.average.start": ("swa_start", "swa_epoch_start"),
    "optimizer.schedule": (
        "warmup", "warmup_steps", "warmup_iters", "warmup_ratio", "num_warmup_steps", "lr_scheduler",
        "lr_scheduler_type", "scheduler", "decay_lr", "lr_decay_iters", "lr_decay_style", "min_lr",
        "decay_steps", "lr_decay_steps", "warmup_epochs", "cosine", "wsd",
    ),
    "training.length.max_steps": (
        "steps", "max_steps", "max_iters", "iters", "iterations", "num_iterations", "num_steps", "n_steps",
        "train_steps", "training_steps", "total_steps", "num_train_steps",
    ),
    "training.length.epochs": (
        "epochs", "num_epochs", "n_epochs", "max_epochs", "num_train_epochs", "train_epochs",
    ),
    "training.micro_batch_size": (
        "batch_size", "bs", "bsz", "batch", "train_batch_size", "per_device_train_batch_size", "device_batch_size",
    ),
    "training.gradient_accumulation": (
        "gradient_accumulation_steps", "grad_accum", "grad_accumulation_steps", "accumulate_grad_batches",
        "grad_acc_steps",
    ),
    "training.gradient_checkpointing": ("activation_checkpointing", "grad_checkpointing"),
    "training.precision.kind": ("precision", "mixed_precision", "amp", "bf16", "fp16", "half"),
    "training.compile": ("torch_compile", "torchcompile"),
    "training.parallel.kind": ("fsdp", "ddp", "strategy"),
    "training.log_every_steps": ("log_interval", "log_every", "logging_steps", "log_freq", "log_every_n_steps"),
    "validation.every_steps": ("eval_interval", "eval_steps", "eval_every", "val_interval", "val_check_interval"),
    "validation.early_stopping_patience": ("patience", "early_stopping", "early_stopping_patience"),
    "checkpoint.every_steps": ("save_steps", "save_interval", "save_every", "checkpoint_interval", "ckpt_interval"),
    "checkpoint.keep_last": ("save_total_limit", "keep_last", "max_checkpoints"),
    "samples.every_steps": ("sample_interval", "sample_every"),
    "samples.prompts": ("sample_prompts",),
    "tracking.tensorboard": ("tensorboard", "tb"),
    "tracking.wandb.mode": ("wandb", "use_wandb", "wandb_log", "report_to"),
    "tracking.wandb.project": ("wandb_project",),
    "tracking.wandb.entity": ("wandb_entity",),
    "name": ("run_name", "experiment_name", "exp_name", "wandb_run_name", "wandb_name"),
    "data.validation.fraction": (
        "val_split", "validation_split", "test_size", "val_size", "split_ratio", "val_fraction", "eval_split",
        "holdout", "validation_fraction",
    ),
    "model.family": ("arch", "architecture", "model_type"),
    "model.layers": ("n_layer", "n_layers", "num_layers", "num_hidden_layers", "depth"),
    "model.heads": ("n_head", "n_heads", "num_heads", "num_attention_heads"),
    "model.kv_heads": ("n_kv_head", "n_kv_heads", "num_key_value_heads"),
    "model.dim": ("n_embd", "d_model", "hidden_size", "embed_dim", "embedding_dim", "hidden_dim"),
    "model.ffn_dim": ("intermediate_size", "d_ff", "ffn_hidden_size", "mlp_dim"),
    "model.dropout": ("dropout", "resid_pdrop", "attn_pdrop", "dropout_rate"),
    "model.vocab_size": ("vocab_size", "padded_vocab_size"),
    "model.context_length": ("n_positions", "max_position_embeddings", "context_length", "context_size"),
    "data.sequences.length": (
        "block_size", "seq_len", "seq_length", "sequence_length", "max_seq_len", "max_seq_length", "max_length",
    ),
    "data.mode.kind": ("streaming", "stream"),
    "tokenizer.kind": ("tokenizer_type", "tokenizer"),
    "seed": ("random_seed", "manual_seed", "rng_seed", "seed_everything"),
    "engine": ("backend", "framework"),
}  # fmt: skip
"""Setting → its names elsewhere, in lower case with underscores."""
WEIGHTS = {"init_from", "init", "from_pretrained", "pretrained", "initial_weights", "model.weights", "finetune_from"}
"""Names elsewhere for the option --init-from."""
_KEYS = {name: key for key, names in SYNONYMS.items() for name in names}


def key_for(name: str) -> str:
    """Return the setting that other tools call ``name``, an option or a key; empty for an unknown one."""
    return _KEYS.get(name.strip("-").lower().replace("-", "_").rsplit(".", 1)[-1], "")


def setting_hint(name: str, known: Iterable[str]) -> str:
    """Return ``Did you mean 'optimizer.lr'?`` for an unknown setting: by its name elsewhere, else by its spelling."""
    if name in WEIGHTS:
        return "It is an option: fabella train TEXT --init-from RUN."
    keys = set(known)
    key = key_for(name)
    return f"Did you mean '{key}'?" if key in keys else did_you_mean(name, keys)
