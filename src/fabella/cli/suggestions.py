"""Where the commands and options of other tools lead: what to use here, or that there is no such feature.

A suggestion is a sentence with a command that works when pasted, after its placeholders in capitals are replaced. Tests
check that every command and option that a suggestion names exists.
"""

import difflib
from collections.abc import Collection

from fabella.errors import MAX_LISTED_CHOICES
from fabella.run_config.files import known_keys
from fabella.run_config.synonyms import key_for

FINE_TUNE = "To fine-tune the weights of a run on a text: fabella train TEXT --init-from RUN."
ALL_WEIGHTS = (
    "Fabella fine-tunes all weights, or those that training.freeze leaves, on text: fabella train TEXT --init-from RUN."
)
CHAT = "To talk to a run that learned chats, or to write a story in turns: fabella generate RUN --interactive."
NO_UPLOAD = (
    "Fabella uploads nothing, except to Weights & Biases: fabella train my-stories.txt tracking.wandb.mode=online."
)

NO_BEAMS = "There is no beam search; --temperature 0 takes the most likely token."
NO_TLS = "Leave TLS to a proxy in front of the server."
OF_MODEL = "The context length is that of the model; it is set when training: model.context_length=512."
NEVER_OVERWRITTEN = "A run is never overwritten: choose another --out, or remove the old one."

COMMANDS: dict[str, tuple[str, ...]] = {
    "Use: fabella export RUN --to FORMAT.": (
        "convert", "convert-to-hf", "to-gguf", "gguf", "onnx", "to-onnx", "merge", "save", "hf", "to-hf", "huggingface",
        "ollama", "llamacpp", "llama-cpp", "llama-cpp-python", "vllm", "safetensors", "html",
    ),
    "Use: fabella generate RUN PROMPT --dtype int8, or fabella export RUN --to gguf.": (
        "quantize", "quantise", "quantization", "int8", "gptq", "awq",
    ),
    "Weights are averaged while training: fabella train TEXT optimizer.average.kind=ema, or mean.": (
        "merge-checkpoints", "average", "ema", "swa", "soup", "average-checkpoints",
    ),
    "A run is a directory: remove it as one. checkpoint.keep_last says how many checkpoints a run keeps.": (
        "rm", "delete", "remove", "prune",
    ),
    "There is no command for it; in Python: fabella.load(RUN), see docs/guide-look-inside.md.": (
        "embed", "embeddings", "notebook", "jupyter", "probe", "attention", "hidden-states", "inspect",
    ),
    FINE_TUNE: (
        "finetune", "fine-tune", "fine_tune", "tune-model", "adapt", "finetuning", "fine-tuning", "transfer",
    ),
    ALL_WEIGHTS: ("sft", "lora", "qlora", "dpo", "rlhf", "grpo", "instruct", "distill"),
    CHAT: ("chat", "talk", "repl", "interactive", "assistant", "converse", "play"),
    NO_UPLOAD: ("push", "push-to-hub", "upload", "publish", "login", "share"),
    "Use: fabella import MODEL --out RUN.": ("import-model", "from-pretrained", "pull"),
    "Use: fabella generate RUN PROMPT.": (
        "infer", "inference", "predict", "sample", "complete", "completion", "write", "prompt", "gen", "decode", "ask",
        "query", "generation", "stream",
    ),
    "Use: fabella train TEXT-OR-PRESET.": (
        "pretrain", "pre-train", "fit", "learn", "run", "start", "launch", "new", "create", "init", "trainer",
        "pretraining", "training",
    ),
    "Use: fabella resume RUN.": ("continue", "restart", "restore", "proceed", "retrain"),
    "Use: fabella evaluate RUN.": ("eval", "evaluation", "test", "score", "metrics", "assess"),
    "Use: fabella perplexity RUN TEXT.": ("ppl", "loglikelihood", "likelihood", "logprobs"),
    "Use: fabella lm-eval RUN TASK.": (
        "lm_eval", "lm-eval-harness", "harness", "tasks", "benchmark-model", "mmlu", "hellaswag", "blimp", "lambada",
    ),
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
        "deduplicate", "split", "shuffle",
    ),
    "Use: fabella verify RUN.": ("checksum", "fsck", "verify-run", "integrity"),
    "Use: fabella presets.": (
        "models", "list", "ls", "configs", "config", "recipes", "preset", "list-models", "show", "zoo",
    ),
    "Use: fabella tune PRESET --lr-find.": ("lr-find", "lr_find", "lr-finder", "find-lr", "lrfind"),
    "Use: fabella tune PRESET --trials 20.": ("sweep", "search", "hpo", "optimize", "optimise", "grid-search"),
    "Use: fabella compare-architectures TEXT.": ("compare-models", "ablate", "architectures"),
    "Use: fabella report RUN.": (
        "plot", "plots", "curves", "dashboard", "tensorboard", "visualize", "logs", "log", "history",
    ),
    "Use: fabella report RUN --terminal, or fabella report RUN --live.": (
        "watch", "monitor", "follow", "tail", "status", "progress",
    ),
    "Runs are compared with: fabella report RUN RUN, or fabella compare RUN RUN.": ("compare-runs", "diff", "rank"),
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
        "load-weights", "pretrained",
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
    "--to": ("format", "target", "to-format", "export-format"),
    "--precision": ("quantize", "quantization", "bits", "outtype", "dtype", "weight-dtype", "int8"),
    "--interactive": ("chat", "repl"),
    "--checkpoint": ("ckpt", "step"),
    "--max-n": ("n", "best-of", "num-completions", "num-return-sequences"),
    "--max-batch-size": ("max-num-seqs", "parallel", "np"),
    "--host": ("bind", "listen", "address", "hostname", "server-name"),
    "--allowed-origin": ("cors", "cors-origins", "cors-origin", "allow-origins", "allow-origin", "allowed-origins"),
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
    "log-level": "Add --debug for tracebacks of errors.",
    "lora": ALL_WEIGHTS,
    "pretrained-model": FINE_TUNE,
    "push-to-hub": NO_UPLOAD,
    "num-beams": NO_BEAMS,
    "beam": NO_BEAMS,
    "beam-size": NO_BEAMS,
    "ssl-keyfile": NO_TLS,
    "ssl-certfile": NO_TLS,
    "tls": NO_TLS,
    "ctx-size": OF_MODEL,
    "n-ctx": OF_MODEL,
    "max-model-len": OF_MODEL,
    "overwrite": NEVER_OVERWRITTEN,
    "force": NEVER_OVERWRITTEN,
    "dry-run": "To estimate memory and time without training: fabella plan PRESET --data TEXT.",
    "shuffle": "Training sequences are always shuffled, by the seed.",
    "num-workers": "Sequences are read ahead in the background without further processes; leave it out.",
    "deepspeed": "Weights are sharded with training.parallel.kind=fsdp.",
}
"""Option of other tools → suggestion, where there is no option and no setting."""
VOCAB_SIZES = {"vocab-size", "vocabulary-size", "vocab", "n-vocab"}
"""Options of other tools for the size of a tokenizer, which that of the model follows."""
OF_SOME = {
    "--init-from": FINE_TUNE,
    "--out": "The result goes to standard output; to save it, add > FILE.",
}
"""Option that only some commands have → suggestion for the others."""
FAMILY = "llama"
"""Family whose settings are recognized, as in ``--dropout``."""
TYPO = 0.72
"""Similarity from which on a name is a misspelling of another one: below, ``split`` would be ``limit``."""


def suggest_command(name: str, commands: Collection[str]) -> str:
    """Return the hint for an unknown command."""
    spelled = name.lower().replace("_", "-")
    if spelled in commands:
        return f"Did you mean '{spelled}'?"
    words = [word for word in spelled.split("-") if word]
    hints = {other: hint for hint, names in COMMANDS.items() for other in names}
    for known in (name.lower(), spelled, *words):
        if known in hints:
            return hints[known]
    if inside := [word for word in words if word in commands]:
        return f"Did you mean '{inside[0]}'?"
    if nearest := difflib.get_close_matches(spelled, list(commands), n=1, cutoff=TYPO):
        return f"Did you mean '{nearest[0]}'?"
    few = 0 < len(commands) <= MAX_LISTED_CHOICES
    return f"Choose from: {', '.join(sorted(commands))}." if few else "fabella --help lists the commands."


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
    if plain in VOCAB_SIZES and "--tokenizer" in options:
        return "The size is that of the tokenizer: --tokenizer bpe:4096."
    if takes_settings and (key := _setting(name)):
        return f"It is a setting; write {key}=VALUE, without hyphens (fabella presets NAME shows all settings)."
    if plain in WITHOUT_COUNTERPART:
        return WITHOUT_COUNTERPART[plain]
    if nearest := _misspelled(plain, options):
        quoted = (f"'{option}'" for option in sorted(nearest))
        return f"Did you mean {' or '.join(quoted)}?"
    of_some = [OF_SOME[option] for option in same if option in OF_SOME]
    return of_some[0] if of_some else f"fabella {command} --help lists the options."


def _setting(name: str) -> str:
    """Return the setting that an option names: in full, by its name elsewhere, or by its last part.

    Of several with this last part, it is the one least deep in the config, as ``name`` and not ``data.source.name``.
    """
    keys = known_keys(FAMILY)
    sections = {key.rpartition(".")[0] for key in keys}
    last = name.strip("-").lower().replace("-", "_")
    if last in keys and last not in sections:
        return last
    if key := key_for(name):
        return key
    same = sorted((known for known in keys if known.rpartition(".")[2] == last), key=lambda known: known.count("."))
    if not same or (len(same) > 1 and same[0].count(".") == same[1].count(".")):
        return ""
    key = f"{same[0]}.kind" if same[0] in sections else same[0]
    return key if key in keys else ""


def _misspelled(plain: str, options: Collection[str]) -> list[str]:
    """Return the option that a name misspells, or those that have one word before it."""
    names = {option.strip("-"): option for option in options if option.startswith("--")}
    if nearest := difflib.get_close_matches(plain, list(names), n=1, cutoff=TYPO):
        return [names[nearest[0]]]
    return [option for known, option in names.items() if len(plain) > 3 and known.partition("-")[2] == plain]
