"""The result of ``fabella train`` and ``fabella resume`` on standard output."""

from collections.abc import Sequence
from shlex import quote

from fabella.cli.output import print_json, print_result
from fabella.report.plots import plot_loss
from fabella.training.session import TrainResult


def print_train_result(result: TrainResult, *, as_json: bool) -> None:
    """Plot the losses of a finished run and print its result."""
    plot, loss, best, average = plot_loss(result.path), result.score, result.best, result.average_score
    others = result.other_validation_losses
    if as_json:
        print_json(
            {
                "run": str(result.path),
                "steps": result.progress.step,
                "tokens": result.progress.tokens,
                "loss": loss.loss,
                "perplexity": loss.perplexity,
                "bits_per_byte": loss.bits_per_byte,
                "rule": loss.rule,
                "average_loss": average.loss if average else None,
                "average_bits_per_byte": average.bits_per_byte if average else None,
                "best_step": best.step if best else None,
                "best_bits_per_byte": best.bits_per_byte if best else None,
                "other_validation": {name: _first_and_last(losses) for name, losses in others.items()},
                "plot": str(plot),
            }
        )
        return
    print_result(
        f"On {loss.tokens:,} held-out tokens, after {result.progress.step:,} steps: {loss}. Loss curve: {plot}"
    )
    if average:
        print_result(f"The average of the weights (--weights average) on the same tokens: {average}.")
    for name, losses in others.items():
        first, last = losses[0], losses[-1]
        began = f", {first[1]:.4f} after step {first[0]:,}" if first[0] != last[0] else ""
        print_result(f"On the validation text of {name}: loss {last[1]:.4f} after step {last[0]:,}{began}.")
    if best and best.step != result.progress.step:
        print_result(
            f"The best checkpoint is that of step {best.step:,}, with {best.bits_per_byte:.4f} bits per byte "
            f"({loss.rule}) on the validation sequences; fabella generate uses it."
        )
    print_result(f"Generate text:  fabella generate {quote(str(result.path))}")


def _first_and_last(losses: Sequence[tuple[int, float]]) -> dict[str, dict[str, float]]:
    return {key: {"step": step, "loss": loss} for key, (step, loss) in (("first", losses[0]), ("last", losses[-1]))}
