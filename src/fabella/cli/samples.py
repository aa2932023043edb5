"""Show completions of the same prompts from every checkpoint of a run.

Examples:
  fabella samples runs/quickstart                                   the samples of the training and of each checkpoint
  fabella samples runs/quickstart "The dragon" "One day"            other prompts, from the checkpoints that exist
  fabella samples runs/quickstart --temperature 0 --max-tokens 40
  fabella samples runs/quickstart --json
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.output import print_report, print_status
from fabella.cli.run_options import AsJson, Device, RunEngine, WeightsOption
from fabella.evaluation.samples import Sample, SamplePrompts, SampleTable, collect_samples, training_prompts
from fabella.runs.run_dir import RunDir
from fabella.tracking.terminal_escape import escape


def command(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    prompts: Annotated[list[str] | None, typer.Argument(help="Prompts; by default those of the config.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Maximum number of new tokens; by default as in the config.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature; 0 is greedy; by default as in the config.")
    ] = None,
    top_p: Annotated[float | None, typer.Option(help="Top-p; 1 disables it; by default as in the config.")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed; by default as in the config.")] = None,
    weights: WeightsOption = "trained",
    device: Device = "auto",
    engine: RunEngine = "",
    as_json: AsJson = False,
) -> None:
    own = training_prompts(RunDir.open(run).run)
    given = {"temperature": temperature, "top_p": top_p, "seed": seed}
    sampling = replace(own.sampling, **{name: value for name, value in given.items() if value is not None})
    ask = SamplePrompts(
        tuple(dict.fromkeys(prompts or own.prompts)), own.max_tokens if max_tokens is None else max_tokens, sampling
    )
    result = collect_samples(run, ask, weights=weights, device=device, engine=engine, report=print_status)
    print_report(result, lines, as_json=as_json)


def lines(result: SampleTable) -> list[str]:
    """Format the samples: prompt by prompt, each in the order of the steps."""
    config, sampling = result.config, result.config.sampling
    shown = [
        f"At most {config.max_tokens} tokens, temperature {sampling.temperature}, top-p {sampling.top_p}, "
        f"seed {sampling.seed}."
    ]
    for prompt in config.prompts:
        shown += ["", f"== {escape(prompt) or '(empty prompt)'}"]
        for sample in result.of(prompt):
            shown += ["", _head(sample), escape(prompt + sample.text)]
    return shown


def _head(sample: Sample) -> str:
    loss = "" if sample.loss is None else f", validation loss {sample.loss:.4f}"
    return f"-- step {sample.step:,}{loss}, generated {sample.generated}"
