"""Scores of one text by the rules story and line."""

from collections.abc import Callable, Iterable

from fabella.data.dataset import Split
from fabella.errors import TextError
from fabella.evaluation.scoring.batches import Document, held_out, of_texts
from fabella.evaluation.scoring.predictions import Predict
from fabella.evaluation.scoring.rules import RULES, require_length, require_rule
from fabella.evaluation.scoring.scores import Scores, score
from fabella.generation.generator import TextGenerator
from fabella.models.flops import flops_per_token
from fabella.tokenizers.tokenizer import Tokenizer

CHEAP_FLOPS = 4e12
"""FLOPs of a forward pass over a text up to which it is scored by both rules: about a minute on two cores."""


def score_by_rules(
    predict: Predict,
    generator: TextGenerator,
    text: Split | Callable[[], Iterable[str]],
    name: str,
    *,
    length: int,
    report: Callable[[str], None],
) -> tuple[tuple[Scores, ...], list[str]]:
    """Return the scores by the rule ``name``, or by both for an empty one, and warnings about what was not measured.

    ``text``: a split, or a function that reads documents from the start. Both: ``story``, and ``line`` unless the text
    is long or shorter than a sequence. ``length``: 0 for the context of the training. Raises UsageError for another
    rule or a length that the model does not have.
    """
    length = require_length(generator.config, length, generator.context_length)
    rules = [RULES[each](length) for each in ([require_rule(name)] if name else RULES)]
    results: list[Scores] = []
    warnings: list[str] = []
    if length > generator.context_length and not generator.config.unlimited_context:
        warnings.append(
            f"The training used {generator.context_length:,} tokens of context: later positions are not trained."
        )
    for rule in rules:
        # A forward pass is a third of a training step.
        if results and results[0].tokens * flops_per_token(generator.config, length) / 3 > CHEAP_FLOPS:
            warnings.append(f"The text is long: it was scored by {rules[0]} only. Score it by {rule} with --rule line.")
            continue
        report(f"Scoring the text by {rule}: {rule.describe()}.")
        try:
            found = score(
                predict,
                _documents(text, generator.tokenizer, packed=rule.kind == "line"),
                rule,
                vocab_size=generator.config.vocab_size,
                eos_id=generator.prefix_id,
            )
        except TextError as error:  # a text that is shorter than one sequence has a score by the other rule
            if not results:
                raise
            warnings.append(f"No score by {rule}: {error.message}")
        else:
            results.append(found)
    return tuple(results), warnings


def _documents(text: Split | Callable[[], Iterable[str]], tokenizer: Tokenizer, *, packed: bool) -> Iterable[Document]:
    if isinstance(text, Split):
        return held_out(text, tokenizer, packed=packed)
    return of_texts(text(), tokenizer, packed=packed)
