"""Where the commands and options of other tools lead: what to use here, or that there is no such feature.

A suggestion is a sentence with a command that works when pasted, after its placeholders in capitals are replaced. Tests
check that every command and option that a suggestion names exists.
"""

from collections.abc import Collection

from fabella.errors import did_you_mean
from fabella.run_config.files import known_keys
from fabella.run_config.synonyms import key_for

FINE_TUNE = "To fine-tune the weights of a run on a text: fabella train TEXT --init-from RUN."
ALL_WEIGHTS = (
    "Fabella fine-tunes all weights, or those that training.freeze leaves, on text: fabella train TEXT --init-from RUN."
)
NO_CHAT = "There is no chat model. To write a story in turns: fabella generate RUN --interactive."
NO_UPLOAD = (
    "Fabella uploads nothing, except to Weights & Biases: fabella train my-stories.txt tracking.wandb.mode=online."
)

COMMANDS: dict[str, tuple[str, ...]] = {
    "Use: fabella export RUN --to FORMAT.": (
        "convert", "convert-to-hf", "to-gguf", "gguf", "onnx", "merge", "save",
    ),
    FINE_TUNE: ("finetune", "fine-tune", "fine_tune", "tune-model", "adapt"),
    ALL_WEIGHTS: ("sft", "lora", "qlora", "dpo", "rlhf", "grpo", "instruct", "distill"),
    NO_CHAT: ("chat", "talk", "repl", "interactive", "assistant", "converse"),
    NO_UPLOAD: ("push", "push-to-hub", "upload", "publish", "login", "share"),
    "Use: fabella import MODEL --out RUN.": ("import-model", "from-pretrained", "pull"),
    "Use: fabella generate RUN PROMPT.": (
        "infer", "inference", "predict", "sample", "complete", "completion", "write", "prompt", "gen", "decode",
    ),
    "Use: fabella train TEXT-OR-PRESET.": (
        "pretrain", "pre-train", "fit", "learn", "run", "start", "launch", "new", "create", "init", "trainer",
    ),
    "Use: fabella resume RUN.": ("continue", "restart", "restore", "proceed", "retrain"),
    "Use: fabella evaluate RUN.": ("eval", "evaluation", "test", "score", "metrics", "assess"),
    "Use: fabella perplexity RUN TEXT.": ("ppl", "loglikelihood", "likelihood", "logprobs"),
    "Use: fabella lm-eval RUN TASK.": ("lm_eval", "lm-eval-harness", "harness", "tasks", "benchmark-model"),
    "Use: fabella bench.": ("benchmark", "benchmarks", "speed", "profile", "throughput"),
    "Use: fabella prepare TEXT --out DIRECTORY, or fabella tokenizer show TOKENIZER --text TEXT for a few tokens.": (
        "tokenize", "tokenise", "preprocess", "encode", "pack", "binarize", "prepare-data", "build-dataset", "data",
        "dataset",
    ),
    "Use: fabella tokenizer train TEXT --out DIRECTORY.": (
        "train-tokenizer", "train_tokenizer", "tokenizer-train", "bpe", "vocab", "sentencepiece",
    ),
    "Use: fabella check-data TEXT.": (
        "doctor", "check", "validate", "inspect-data", "lint", "analyze", "analyse", "stats", "dedup", "clean",
    ),
    "Use: fabella verify RUN.": ("checksum", "fsck", "verify-run", "integrity"),
    "Use: fabella presets.": (
        "models", "list", "ls", "configs", "config", "recipes", "preset", "list-models", "show", "zoo",
    ),
    "Use: fabella tune PRESET --lr-find.": ("lr-find", "lr_find", "lr-finder", "find-lr", "lrfind"),
    "Use: fabella tune PRESET --trials 20.": ("sweep", "search", "hpo", "optimize", "optimise", "grid-search"),
    "Use: fabella compare-architectures TEXT.": ("compare-models", "ablate", "architectures"),
    "Use: fabella report RUN.": ("plot", "plots", "curves", "dashboard", "tensorboard", "visualize", "logs", "log"),
    "Use: fabella serve RUN.": ("server", "api", "web", "webui", "ui", "gui", "deploy", "host", "openai", "playground"),
    "Use: fabella plan PRESET-OR-RUN.": ("info", "summary", "estimate", "memory", "size", "cost", "count", "params"),
    "Use: fabella batch-size PRESET.": ("find-batch-size", "auto-batch-size", "autobatch"),
    "Use: fabella quickstart.": ("demo", "example", "tutorial", "hello", "story"),
    "Use: fabella --version.": ("version",),
    "Use: fabella --help.": ("help", "usage", "commands"),
    "Text of the hub is read while training: fabella train hub:OWNER/NAME.": ("download", "fetch", "get"),
}  # fmt: skip
"""Suggestion → commands of other tools."""

OPTIONS: dict[str, tuple[str, ...]] = {
    "--out": ("output", "output-dir", "out-dir", "save-dir", "save-path", "run-dir", "log-dir", "o", "save", "logdir"),
    "--data": (
        "dataset", "data-path", "data-dir", "dataset-name", "train-data", "train-file", "train-files", "input",
        "input-file", "corpus", "text-file", "file", "path",
    ),
    "--validation": ("val-data", "eval-data", "validation-file", "val-file", "eval-file", "valid", "dev", "val"),
    "--steps": (
        "max-steps", "max-iters", "iters", "iterations", "num-iterations", "num-steps", "n-steps", "train-steps",
        "training-steps", "total-steps", "num-train-steps",
    ),
    "--epochs": ("num-epochs", "n-epochs", "max-epochs", "num-train-epochs", "epoch"),
    "--lr": ("learning-rate", "max-lr", "peak-lr", "base-lr"),
    "--batch-size": (
        "bs", "bsz", "batch", "train-batch-size", "per-device-train-batch-size", "device-batch-size",
        "micro-batch-size",
    ),
    "--init-from": (
        "pretrained-model", "from-pretrained", "init", "init-weights", "initial-weights", "weights", "finetune-from",
        "load-weights",
    ),
    "--seed": ("random-seed", "manual-seed", "rng-seed"),
    "--devices": ("gpus", "num-gpus", "n-gpus", "nproc", "nproc-per-node", "num-processes", "gpu-count", "n-gpu"),
    "--device": ("cuda", "gpu", "cpu", "use-cpu", "no-cuda", "accelerator", "mps"),
    "--resume": ("resume-from-checkpoint", "resume-from", "continue", "restart", "load"),
    "--max-tokens": (
        "max-new-tokens", "tokens", "num-tokens", "n-tokens", "n-predict", "max-length", "length", "max-len",
        "max-output-tokens", "max-gen-len",
    ),
    "--temperature": ("temp", "t", "sampling-temperature"),
    "--top-k": ("topk", "k"),
    "--top-p": ("topp", "p", "nucleus"),
    "--min-p": ("minp",),
    "--repetition-penalty": ("repeat-penalty", "rep-pen", "presence-penalty", "frequency-penalty"),
    "--n": ("num-samples", "n-samples", "num-return-sequences", "samples", "num-completions", "best-of", "count"),
    "--prompt": ("text", "input-text", "start", "prefix"),
    "--stop": ("stop-sequence", "stop-sequences", "stop-string", "eos", "stop-token"),
    "--dtype": ("quantize", "quantization", "int8", "load-in-8bit", "weight-dtype"),
    "--interactive": ("chat", "repl"),
    "--checkpoint": ("ckpt", "step"),
    "--max-batch-size": ("max-num-seqs", "parallel", "np"),
    "--api-key-file": ("api-key", "key", "token"),
    "--engine": ("backend", "framework"),
    "--num-fewshot": ("shots", "few-shot", "fewshot", "num-shots"),
    "--limit": ("max-samples", "num-examples"),
    "--trials": ("n-trials", "num-trials", "count"),
    "--workers": ("num-workers", "n-jobs", "jobs", "j", "num-proc"),
    "--json": ("as-json", "format-json", "output-format"),
}  # fmt: skip
"""Option → its names elsewhere, with hyphens. It is suggested to the commands that have it."""
FIRST_ARGUMENT = {"model", "model-path", "model-name-or-path", "run", "preset", "config", "config-file", "pretrained"}
"""Options of other tools for what is the first argument here."""
WITHOUT_COUNTERPART = {
    "stream": "Text is always printed while it is generated.",
    "do-sample": "Sampling is the default; --temperature 0 is greedy.",
    "greedy": "Use --temperature 0.",
    "quiet": "Progress goes to standard error: add 2> /dev/null.",
    "verbose": "Add --debug for tracebacks of errors.",
    "lora": ALL_WEIGHTS,
    "pretrained-model": FINE_TUNE,
    "push-to-hub": NO_UPLOAD,
}
"""Option of other tools → suggestion, where there is no option and no setting."""
OF_TRAIN = {"init-from": FINE_TUNE}
"""Option that only ``fabella train`` has → suggestion for other commands."""


def suggest_command(name: str, commands: Collection[str]) -> str:
    """Return the hint for an unknown command."""
    spelled = name.lower().replace("_", "-")
    if spelled in commands:
        return f"Did you mean '{spelled}'?"
    hints = [hint for hint, names in COMMANDS.items() if {name.lower(), spelled} & set(names)]
    return hints[0] if hints else did_you_mean(name, commands)


def suggest_option(name: str, options: Collection[str], command: str, *, takes_settings: bool) -> str:
    """Return the hint for an unknown option of a command.

    ``options``: those of the command, e.g. ``--steps``. ``takes_settings``: whether it takes ``section.key=value``.
    """
    plain = name.strip("-").lower().replace("_", "-")
    same = [f"--{plain}", *(option for option, names in OPTIONS.items() if plain in names)]
    if usable := [option for option in same if option in options]:
        return f"Use {usable[0]}."
    if plain in FIRST_ARGUMENT:
        return f"It is the first argument: fabella {command} {plain.split('-')[0].upper()}."
    key = name.strip("-") if name.strip("-") in known_keys() else key_for(name)
    if takes_settings and key:
        return f"It is a setting; write {key}=VALUE, without hyphens (fabella presets NAME shows all settings)."
    if suggestion := (OF_TRAIN | WITHOUT_COUNTERPART).get(plain):
        return suggestion
    nearest = did_you_mean(name, options)
    return nearest if nearest.startswith("Did you mean") else f"fabella {command} --help lists the options."
