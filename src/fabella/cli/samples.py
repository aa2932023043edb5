"""Read how a run learned: the same prompts, told from checkpoint after checkpoint.

Examples:
  fabella samples runs/quickstart                                   what the training told, and each checkpoint
  fabella samples runs/quickstart "The dragon" "One day"            other prompts, from the checkpoints that are kept
  fabella samples runs/quickstart --temperature 0 --tokens 40
  fabella samples runs/quickstart --json
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.output import print_report, print_status
from fabella.evaluation.samples import Sample, SamplePrompts, SampleTable, collect_samples, training_prompts
from fabella.runs.run_dir import RunDir
from fabella.tracking.terminal_escape import escape


def command(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    prompts: Annotated[list[str] | None, typer.Argument(help="How each text begins; nothing: as in training.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Most tokens a text; otherwise as in training.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0: the most likely token; otherwise as in training.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Choose among tokens that hold this share; otherwise as in training.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed, the same texts; otherwise the run's own.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    engine: Annotated[str, typer.Option(help="torch or jax; usually the one of the run.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    own = training_prompts(RunDir.open(run).run)
    given = {"temperature": temperature, "top_p": top_p, "seed": seed}
    sampling = replace(own.sampling, **{name: value for name, value in given.items() if value is not None})
    ask = SamplePrompts(
        tuple(dict.fromkeys(prompts or own.prompts)), own.max_tokens if tokens is None else tokens, sampling
    )
    result = collect_samples(run, ask, device=device, engine=engine, report=print_status)
    print_report(result, lines, as_json=as_json)


def lines(result: SampleTable) -> list[str]:
    """For people: prompt by prompt, and of each the steps."""
    config, sampling = result.config, result.config.sampling
    shown = [
        f"At most {config.max_tokens} tokens, temperature {sampling.temperature}, top-p {sampling.top_p}, "
        f"seed {sampling.seed}."
    ]
    for prompt in config.prompts:
        shown += ["", f"== {escape(prompt) or '(the model begins)'}"]
        for sample in result.of(prompt):
            shown += ["", _head(sample), escape(prompt + sample.text)]
    return shown


def _head(sample: Sample) -> str:
    loss = "" if sample.loss is None else f", validation loss {sample.loss:.4f}"
    return f"-- step {sample.step:,}{loss}, generated {sample.generated}"
