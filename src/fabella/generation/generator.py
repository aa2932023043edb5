"""Text generator of a run: loads the model, generates text and scores text with either engine.

generator = fabella.load("runs/my-stories")
for piece in generator.stream("Once upon a time"):
    print(piece, end="")
generator.generate("Once upon a time", SamplingParams(temperature=0.5), n=2)  # a list of Completion
generator.perplexity("Once upon a time").bits_per_byte
generator.model  # the torch.nn.Module, with the PyTorch engine
"""

import importlib
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.config.data import Packed, Padded
from fabella.engine import engine as engines
from fabella.errors import ConfigError, TokenizerError, UsageError
from fabella.generation import likelihood
from fabella.generation.chat import ConversationWriter, Message, chat_of, conversation_writer, prefix_id
from fabella.generation.completion import ActiveCompletion, Completion, CompletionStream, batch_prompts
from fabella.generation.context_shift import UNLIMITED, context_shifts
from fabella.generation.continuous_batching import ContinuousBatcher
from fabella.generation.decoder.weights import WeightDtype
from fabella.generation.likelihood import Perplexity, PromptScores
from fabella.generation.sampling import SamplingParams
from fabella.models.model_config import ModelConfig
from fabella.runs import checkpoint as checkpoints
from fabella.runs.run_dir import RunDir
from fabella.storyteller import run_or_included
from fabella.tokenizers import loading
from fabella.tokenizers.tokenizer import Tokenizer

MAX_BATCH_SIZE = 32
"""Completions decoded in one batch: more of them gain little on a CPU, and each needs memory for its state."""
MAX_TOKENS = 1_000_000
"""Upper limit of ``max_tokens``."""
_DEFAULT_SAMPLING = SamplingParams()


def engine_module(name: str, engine: str) -> Any:
    """Import ``fabella.generation.NAME_ENGINE``, so that only the files of the chosen engine load torch or jax.

    The modules that exist for an engine are ``generate``, ``likelihood`` and, with PyTorch only,
    ``continuous_batching``, ``prompt_scores`` and ``decoder.backends``.
    """
    return importlib.import_module(f"fabella.generation.{name}_{engine}")


def load(
    path: str | Path,
    *,
    checkpoint: str | int = "best",
    weights: str = "trained",
    device: str = "auto",
    dtype: WeightDtype = "float32",
    engine: str = "",
    compile_decoder: bool = True,
) -> "TextGenerator":
    """Load a checkpoint of the run directory ``path``: ``best``, ``latest``, or a step number.

    ``weights``: ``trained``, or ``average`` for their average, of a run with ``optimizer.average``.
    ``storyteller`` is the model that comes with the package.

    ``dtype`` is the storage type of the weights while decoding; perplexity always uses the float32 weights. ``engine``
    is torch or jax; empty means the engine that trained the run. Without ``compile_decoder`` the native decoder is
    built at the first generation, not while loading.

    Raises StorageError if the run or the checkpoint does not exist, TokenizerError if the tokenizer has ids that the
    model does not have, ConfigError if the engine cannot decode with ``dtype``.
    """
    run_dir = RunDir.open(run_or_included(Path(path)))
    run = run_dir.run
    tokenizer = loading.load(run_dir.path / "tokenizer")
    saved = checkpoints.load_weights(run_dir, checkpoint, weights)
    engine = engine or run.engine
    model = engines.backend(engine, "build_model").load_model(run.model, saved.checkpoint.state.weights, device)
    if engine == "torch":  # the model of JAX takes them by itself
        engines.backend(engine, "activations").accept_output_options(model)
    warning = _compile_decoder(model, dtype, engine) if compile_decoder else ""
    generator = TextGenerator(model, tokenizer, config=run.model, sequences=run.data.sequences, engine=engine)
    generator.sample_prompts = run.samples.prompts
    generator.step, generator.weights = saved.step, weights
    generator.warnings = [*saved.warnings, *([warning] if warning else [])]
    return generator


def _compile_decoder(model: Any, dtype: WeightDtype, engine: str) -> str:
    """Build the fast decoder; return a warning if it is not available, else an empty string."""
    if engine != "torch" and dtype == "float32":
        return ""
    if engine != "torch":
        raise ConfigError(f"dtype = {dtype} needs engine torch, but the engine is {engine}.", hint="Use float32.")
    return engine_module("decoder.backends", engine).compile_decoder(model, dtype)


class TextGenerator:
    """A model in evaluation mode with its tokenizer.

    A completion may be longer than the training sequences. Recurrent families decode without a limit. The others shift
    the context when ``context_length`` tokens are full: the oldest half is dropped, the rest is prefilled again and
    decoding continues. ``Completion.context_shifts`` counts how often.
    """

    def __init__(
        self, model: Any, tokenizer: Tokenizer, *, config: ModelConfig, sequences: Packed | Padded, engine: str
    ) -> None:
        """``sequences`` are the training sequences' settings. Raises TokenizerError if the vocabularies differ."""
        if tokenizer.vocab_size > config.vocab_size:
            raise TokenizerError(
                f"The tokenizer has {tokenizer.vocab_size:,} ids, the model only {config.vocab_size:,}.",
                hint="Use the tokenizer that the run was trained with (the directory 'tokenizer' of the run).",
            )
        self.model = model
        """With PyTorch an ``nn.Module``: token ids [B, T] to logits [B, T, vocab_size]."""
        self.tokenizer, self.config, self.engine = tokenizer, config, engine
        self.chat = chat_of(tokenizer)
        """The chat template that the model was trained with; None for a base model."""
        self.step = 0
        """Training steps of the loaded checkpoint."""
        self.weights = "trained"
        """The loaded weights: ``trained``, or ``average`` for their average."""
        self.sample_prompts: Sequence[str] = ()
        """Prompts of the samples of the training: beginnings that fit the text."""
        self.warnings: list[str] = []
        """One sentence for each damaged checkpoint that was skipped, and for a decoder that is slower than possible."""
        # Some models have more positions than the training sequences, but those were never trained.
        self.context_length = min(config.context_length, sequences.length)
        self._generate = engine_module("generate", engine).generate
        self._token_losses = engine_module("likelihood", engine).token_losses

    def __repr__(self) -> str:
        parameters = sum(parameter.size for parameter in self.config.parameters().values())
        return (
            f"TextGenerator({self.config.family}, {parameters:,} parameters, step {self.step:,}, "
            f"{self.tokenizer.vocab_size:,} tokens, {self.engine})"
        )

    def stream_many(
        self,
        prompts: Sequence[str],
        sampling: SamplingParams = _DEFAULT_SAMPLING,
        *,
        n: int = 1,
        max_tokens: int = 200,
        stop: Sequence[str] = (),
    ) -> CompletionStream:
        """Return a stream of ``n`` completions for every prompt, decoded in batches; iterate to generate.

        A completion depends on its prompt, the sampling parameters with their seed, and its number among the ``n``;
        not on the other completions.
        """
        inputs = [(prompt, self._input_ids(prompt)) for prompt in prompts for _ in range(n)]
        return self._stream(inputs, sampling, n=n, max_tokens=max_tokens, stop=stop)

    def stream_chat(
        self,
        messages: Sequence[Message],
        sampling: SamplingParams = _DEFAULT_SAMPLING,
        *,
        n: int = 1,
        max_tokens: int = 200,
        stop: Sequence[str] = (),
    ) -> CompletionStream:
        """Return a stream of ``n`` answers to a conversation, in the chat template that the model was trained with.

        Raises UsageError for a model without a chat template.
        """
        if self.chat is None:
            raise UsageError("The model was not trained with a chat template.", hint="Give a prompt without --chat.")
        ids = self.prepend_prefix(self.chat.encode(messages))
        inputs = [(self.chat.text(messages), ids) for _ in range(n)]
        stop = [*stop, *self.chat.stop]
        return self._stream(inputs, sampling, n=n, max_tokens=max_tokens, stop=stop, stop_ids=self.chat.stop_ids)

    def _stream(
        self,
        inputs: Sequence[tuple[str, NDArray[np.int32]]],
        sampling: SamplingParams,
        *,
        n: int,
        max_tokens: int,
        stop: Sequence[str],
        stop_ids: Set[int] = frozenset(),
    ) -> CompletionStream:
        """Return a stream of completions of ``inputs``: prompts as text and as ids, each of them ``n`` times."""
        _check(n, max_tokens)

        def decode(batch: Sequence[int]) -> Iterator[list[int]]:
            rows = [number % n for number in batch]
            return self._sample([inputs[number][1] for number in batch], sampling, rows=rows, max_tokens=max_tokens)

        return CompletionStream(
            [
                ActiveCompletion(
                    self.tokenizer,
                    max_tokens=max_tokens,
                    stop=stop,
                    prompt=prompt,
                    prompt_tokens=len(ids),
                    stop_ids=stop_ids,
                )
                for prompt, ids in inputs
            ],
            batch_prompts([len(ids) for _, ids in inputs], max_spread=max_tokens, max_batch_size=MAX_BATCH_SIZE),
            decode,
            self._count_context_shifts,
        )

    def stream(
        self,
        prompt: str,
        sampling: SamplingParams = _DEFAULT_SAMPLING,
        *,
        max_tokens: int = 200,
        stop: Sequence[str] = (),
    ) -> Iterator[str]:
        """Yield the completion of ``prompt`` as it is generated: whole characters, never a part of a stop string."""
        for _, piece in self.stream_many([prompt], sampling, max_tokens=max_tokens, stop=stop):
            yield piece

    def generate(
        self,
        prompt: str,
        sampling: SamplingParams = _DEFAULT_SAMPLING,
        *,
        n: int = 1,
        max_tokens: int = 200,
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        """Return ``n`` completions of ``prompt``; an empty prompt starts a new document."""
        return self.stream_many([prompt], sampling, n=n, max_tokens=max_tokens, stop=stop).completions()

    def continuous_batcher(self, max_batch_size: int) -> ContinuousBatcher:
        """Return an empty batcher for requests that come and go; with the PyTorch engine only."""
        batcher = engine_module("continuous_batching", self.engine).ContinuousBatcher
        return batcher(
            self.model, max_batch_size, vocab_size=self.tokenizer.vocab_size, context_length=self._decode_context_length
        )

    @property
    def prefix_id(self) -> int:
        """Id that precedes a document: BOS, without one EOS."""
        return prefix_id(self.tokenizer)

    def conversation_writer(self) -> ConversationWriter:
        """Return the writer of conversations with marks, in the chat template of the model if it has one."""
        return conversation_writer(self.chat)

    def prepend_prefix(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """Prepend the BOS id; without one the EOS id: in training, every document follows the end of another one."""
        return np.concatenate([[prefix_id(self.tokenizer)], ids]).astype(np.int32)

    def perplexity(self, text: str) -> Perplexity:
        """Score every token of ``text``, which may be longer than the context. Raises TextError if it has no tokens."""
        return likelihood.measure(
            lambda batch: self._token_losses(self.model, batch.tokens, batch.targets),
            text,
            self.tokenizer,
            context_length=self.context_length,
            vocab_size=self.config.vocab_size,
        )

    def score_prompt(self, ids: NDArray[np.int32], alternatives: int) -> PromptScores:
        """Return the log-probability of each of ``ids[1:]`` and of its most likely ``alternatives``; PyTorch only."""
        score = engine_module("prompt_scores", self.engine).score_prompt
        return score(
            self.model,
            ids,
            alternatives=alternatives,
            vocab_size=self.tokenizer.vocab_size,
            context_length=self.context_length,
        )

    @property
    def _decode_context_length(self) -> int:
        return UNLIMITED if self.config.unlimited_context else self.context_length

    def _input_ids(self, prompt: str) -> NDArray[np.int32]:
        return self.prepend_prefix(self.tokenizer.encode(prompt))

    def _sample(
        self, ids: Sequence[NDArray[np.int32]], sampling: SamplingParams, *, rows: Sequence[int], max_tokens: int
    ) -> Iterator[list[int]]:
        return self._generate(
            self.model,
            ids,
            sampling,
            rows=rows,
            max_tokens=max_tokens,
            vocab_size=self.tokenizer.vocab_size,
            context_length=self._decode_context_length,
            num_prefix_tokens=1,
        )

    def _count_context_shifts(self, length: int) -> int:
        return 0 if self.config.unlimited_context else context_shifts(length, self.context_length)


def _check(n: int, max_tokens: int) -> None:
    if n < 1:
        raise UsageError(f"n = {n} is less than 1.", hint="Request at least one completion.")
    if not 1 <= max_tokens <= MAX_TOKENS:
        raise UsageError(
            f"max_tokens = {max_tokens:,} is out of range: it must be at least 1 and at most {MAX_TOKENS:,}.",
            hint="A story of TinyStories has about 200 tokens.",
        )
