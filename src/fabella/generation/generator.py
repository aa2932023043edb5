"""The teller of a run: loads it, tells stories, and says how likely it finds a text. Neutral of the engine.

teller = load("runs/my-stories")
for piece in teller.stream("Once upon a time"): print(piece, end="")
"""

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.config.data import Packed, Padded
from fabella.data.batches import Batch
from fabella.engine import engine as engines
from fabella.errors import ConfigError, TokenizerError, UsageError
from fabella.generation import likelihood
from fabella.generation.completion import ActiveCompletion, Completion, CompletionStream, groups
from fabella.generation.context_shift import UNLIMITED, context_shifts
from fabella.generation.continuous_batching import ContinuousBatcher
from fabella.generation.decoder.weights import WeightDtype
from fabella.generation.likelihood import Perplexity
from fabella.generation.sampling import SamplingParams
from fabella.models.model_config import ModelConfig
from fabella.runs import checkpoint as checkpoints
from fabella.runs.run_dir import RunDir
from fabella.tokenizers import loading
from fabella.tokenizers.tokenizer import Tokenizer

# Texts told at once: more of them gain little on a CPU, and each needs its own state.
_TOGETHER = 32
_MOST_TOKENS = 1_000_000
_USUAL = SamplingParams()


def load(
    path: str | Path,
    *,
    checkpoint: str | int = "best",
    device: str = "auto",
    weights: WeightDtype = "float32",
    engine: str = "",
    telling: bool = True,
) -> "TextGenerator":
    """The teller of the run folder ``path``; ``checkpoint`` is best, latest, or the number of a step.

    ``weights``: what texts are told from; perplexity is always that of the weights as they were learned.
    ``engine``: torch or jax; empty: the one that the run was trained with. ``telling``: whether stories are to be
    told, so that what this takes is made ready; without it, this is done with the first story.

    Raises StorageError where there is no run or no such checkpoint, TokenizerError where the tokenizer has ids that
    the model does not know.
    """
    folder = RunDir.open(Path(path))
    run = folder.run
    tokenizer = loading.load(folder.path / "tokenizer")
    saved = checkpoints.load(folder, _which(checkpoint), weights_only=True)
    engine = engine or run.engine
    model = engines.load(engine).load_model(run.model, saved.checkpoint.state.weights, device)
    remark = _lay_out(model, weights, engine) if telling else ""
    teller = TextGenerator(model, tokenizer, config=run.model, windows=run.data.sequences, engine=engine)
    teller.step, teller.remarks = saved.step, [*saved.warnings, *([remark] if remark else [])]
    return teller


def _lay_out(model: Any, weights: WeightDtype, engine: str) -> str:
    """What is to be said of it, or nothing."""
    if engine != "torch" and weights == "float32":
        return ""
    if engine != "torch":
        raise ConfigError(f"weights = {weights} needs PyTorch, and the engine is {engine}.", hint="Use float32.")
    return importlib.import_module("fabella.generation.decoder.backends_torch").compile_decoder(model, weights)


def _which(checkpoint: str | int) -> checkpoints.Which:
    if checkpoint == "best" or checkpoint == "latest" or isinstance(checkpoint, int):
        return checkpoint
    if checkpoint.isdecimal():
        return int(checkpoint)
    raise UsageError(f"checkpoint = {checkpoint!r} is none.", hint="Give best, latest, or the number of a step.")


class TextGenerator:
    """A model in evaluation mode with its tokenizer.

    A text may be longer than the windows that the model learned from: recurrent families go on without a limit; for
    the others, whenever ``context`` tokens are full, the last half of them is read anew and the text goes on from
    there. ``Story.rereads`` says how often.
    """

    def __init__(
        self, model: Any, tokenizer: Tokenizer, *, config: ModelConfig, windows: Packed | Padded, engine: str
    ) -> None:
        """``windows``: those that the model learned from. Raises TokenizerError where the vocabularies do not fit."""
        if tokenizer.vocab_size > config.vocab_size:
            raise TokenizerError(
                f"The tokenizer has {tokenizer.vocab_size:,} ids, the model only {config.vocab_size:,}: they do not "
                "belong together.",
                hint="Use the tokenizer that the run was trained with (the folder 'tokenizer' of the run).",
            )
        self.model, self.tokenizer, self.config, self.engine = model, tokenizer, config, engine
        self.step = 0
        """Optimizer steps that the model had learned for."""
        self.remarks: list[str] = []
        """One sentence for each checkpoint that was passed over, and for what makes telling slower here."""
        # Positions beyond the windows exist in some models, but nothing was ever learned there.
        self.context = min(config.context_length, windows.length)
        self._generate = importlib.import_module(f"fabella.generation.generate_{engine}").generate
        self._losses = importlib.import_module(f"fabella.generation.likelihood_{engine}").token_losses

    def stream_many(
        self,
        prompts: Sequence[str],
        sampling: SamplingParams = _USUAL,
        *,
        n: int = 1,
        max_tokens: int = 200,
        stop: Sequence[str] = (),
    ) -> CompletionStream:
        """Begin ``n`` stories for every prompt, all told side by side. Iterate to hear them.

        A story depends on its prompt, the sampling with its seed, and its number among the ``n``; not on the others.
        """
        _check(n, max_tokens)
        texts = [(prompt, self._ids(prompt)) for prompt in prompts for _ in range(n)]
        lengths = [len(ids) for _, ids in texts]

        def steps(group: Sequence[int]) -> Iterator[list[int]]:
            rows = [number % n for number in group]
            return self._chosen([texts[number][1] for number in group], sampling, rows=rows, max_tokens=max_tokens)

        return CompletionStream(
            [
                ActiveCompletion(prompt, self.tokenizer, read=len(ids), stops=stop, max_tokens=max_tokens)
                for prompt, ids in texts
            ],
            groups(lengths, spread=max_tokens, most=_TOGETHER),
            steps,
            self._rereads,
        )

    def stream(
        self, prompt: str, sampling: SamplingParams = _USUAL, *, max_tokens: int = 200, stop: Sequence[str] = ()
    ) -> Iterator[str]:
        """The continuation of ``prompt`` as it is told: whole characters, and never a part of a stop string."""
        for _, piece in self.stream_many([prompt], sampling, max_tokens=max_tokens, stop=stop):
            yield piece

    def generate(
        self,
        prompt: str,
        sampling: SamplingParams = _USUAL,
        *,
        n: int = 1,
        max_tokens: int = 200,
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        """``n`` stories that begin with ``prompt``."""
        return self.stream_many([prompt], sampling, n=n, max_tokens=max_tokens, stop=stop).stories()

    def slots(self, count: int) -> ContinuousBatcher:
        """Places for ``count`` texts that come and go while others are told; with PyTorch alone."""
        made = importlib.import_module(f"fabella.generation.continuous_batching_{self.engine}").ContinuousBatcher
        context = UNLIMITED if self.config.unlimited_context else self.context
        return made(self.model, count, vocab_size=self.tokenizer.vocab_size, context=context)

    def prepend_eos(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """What the model reads of a prompt's ids: they come after the end of the document before, as when learned."""
        return np.concatenate([[self.tokenizer.eos_id], ids]).astype(np.int32)

    def perplexity(self, text: str) -> Perplexity:
        """How likely each token of ``text`` was; see perplexity.py for its beginning and for long texts."""
        return likelihood.measure(
            self._nats,
            text,
            self.tokenizer,
            context=self.context,
            vocab_size=self.config.vocab_size,
        )

    def _nats(self, batch: Batch) -> NDArray[np.float32]:
        return self._losses(self.model, batch.tokens, batch.targets)

    def _ids(self, prompt: str) -> NDArray[np.int32]:
        """Of an empty prompt, the model itself begins."""
        return self.prepend_eos(self.tokenizer.encode(prompt))

    def _chosen(
        self, ids: Sequence[NDArray[np.int32]], sampling: SamplingParams, *, rows: Sequence[int], max_tokens: int
    ) -> Iterator[list[int]]:
        return self._generate(
            self.model,
            ids,
            sampling,
            rows=rows,
            max_tokens=max_tokens,
            vocab_size=self.tokenizer.vocab_size,
            context=UNLIMITED if self.config.unlimited_context else self.context,
            opening=1,
        )

    def _rereads(self, length: int) -> int:
        return 0 if self.config.unlimited_context else context_shifts(length, self.context)


def _check(n: int, max_tokens: int) -> None:
    if n < 1:
        raise UsageError(f"n = {n} is less than 1.", hint="Ask for at least one story.")
    if not 1 <= max_tokens <= _MOST_TOKENS:
        raise UsageError(
            f"tokens = {max_tokens:,} is out of bounds: it must be at least 1 and at most {_MOST_TOKENS:,}.",
            hint="A story of TinyStories has about 200 tokens.",
        )
