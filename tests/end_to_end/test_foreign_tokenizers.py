"""A tokenizer of each kind from elsewhere: prepare, train, generate and serve, without a vocabulary set by hand."""

import io
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

import fabella
from fabella.data.dataset import open_dataset
from fabella.errors import TokenizerError
from fabella.generation.generator import TextGenerator
from fabella.text.chat.template import named
from fabella.tokenizers import loading
from fabella.training.run import start_run
from fabella.training.setup.request import TrainRequest, prepare_data, resolve_request
from tests.server.stubs import InProcess, served_models
from tests.training import tiny

STORY = "Once upon a time a small fox named {0} ran home over the hill number {0}. It was late, and {1} was hungry."
NAMES = ("Tim", "Ann", "Bob", "Lea", "Max", "Kim", "Joe", "Mia")
TEXTS = [STORY.format(NAMES[number % 8], NAMES[number // 8]) for number in range(64)]


def word_piece(folder: Path) -> None:
    """BERT: lower case, [CLS] before and [SEP] after a text, spaces lost."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special))
    pairs = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=pairs)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"sep_token": "[SEP]", "cls_token": "[CLS]"}))


def unigram(folder: Path) -> None:
    """T5: no start token, </s> after a text, named by special_tokens_map.json only."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator(TEXTS, trainer)
    end = [("</s>", tokenizer.token_to_id("</s>"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=end)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))


def byte_level(folder: Path, alphabet: Sequence[str] = ()) -> None:
    """GPT-2, trained without ``initial_alphabet``: only the bytes of its text have tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=320, special_tokens=["<|endoftext|>"], initial_alphabet=list(alphabet))
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def llama(folder: Path, user_defined_symbols: Sequence[str] = ()) -> None:
    """Llama: a SentencePiece model with <s>, </s> and bytes, and its usual config."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=380, model_type="bpe", byte_fallback=True,
        bos_id=1, eos_id=2, unk_id=0, hard_vocab_limit=False, minloglevel=3, num_threads=1,
        user_defined_symbols=list(user_defined_symbols),
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": {"content": "</s>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def chat_ml(folder: Path) -> None:
    """Qwen: byte-level BPE with the special tokens of ChatML, and a template without ``generation`` blocks."""
    byte_level(folder, pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in named("chatml").special_tokens])
    tokenizer.save(str(folder / "tokenizer.json"))
    template = (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' "
        "+ '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    config = {"eos_token": "<|endoftext|>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


KINDS: dict[str, tuple[Callable[[Path], None], str, str | None]] = {
    "WordPiece": (word_piece, "[SEP]", "[CLS]"),
    "Unigram": (unigram, "</s>", None),
    "byte-level": (byte_level, "<|endoftext|>", None),
    "Llama": (llama, "</s>", "<s>"),
    "ChatML": (chat_ml, "<|endoftext|>", None),
}
"""How to make the tokenizer, the token that ends a document, and the one that starts it."""


OVERRIDES = [setting for setting in tiny.SETTINGS if not setting.startswith(("model.vocab_size", "tokenizer", "data."))]
SEQUENCES = "data.sequences={kind: packed, length: 64, stride: 64}"


def train(folder: Path, text: Path, *settings: str, steps: int = 3) -> TextGenerator:
    """Train with the tokenizer in ``folder`` as a user does, who sets no vocabulary, and load the run."""
    source = json.dumps({"kind": "pretrained", "source": str(folder)})
    overrides = [*OVERRIDES, "model.context_length=64", SEQUENCES, "data.validation.fraction=0.2"]
    overrides += [f"tokenizer={source}", f"training.length.max_steps={steps}", *settings]
    resolved = resolve_request(TrainRequest(what="storybook-1m", data=str(text), overrides=overrides))
    dataset = prepare_data(resolved.run, folder / "prepared", workers=1)
    config, _ = resolved.fit(dataset)
    assert config.model.vocab_size >= dataset.tokenizer.vocab_size
    start_run(config, folder / "run", dataset)
    return fabella.load(folder / "run")


@pytest.mark.parametrize("kind", KINDS)
def test_a_foreign_tokenizer_is_prepared_trained_generated_with_and_served(kind: str, tmp_path: Path) -> None:
    make, end, start = KINDS[kind]
    make(tmp_path)
    text = tmp_path / "stories.jsonl"
    text.write_text("".join(json.dumps({"text": story}) + "\n" for story in TEXTS))
    generator = train(tmp_path, text)
    tokenizer = generator.tokenizer
    inverse = {number: token for token, number in tokenizer.special_tokens.items()}
    assert inverse[tokenizer.eos_id] == end
    assert (inverse[tokenizer.bos_id] if tokenizer.bos_id is not None else None) == start
    (prepared,) = (tmp_path / "prepared").iterdir()
    split = open_dataset(prepared).train
    for first, stop in itertools.pairwise(split.offsets.tolist()):
        ids = split.read(first, stop).tolist()
        assert [inverse.get(number) for number in (ids[0], ids[-1])] == [start, end]
        assert not {inverse.get(number) for number in ids[1:-1]} & {start, end} - {None}
        assert "small fox" in tokenizer.decode(ids)
    assert loading.load(tmp_path / "run" / "tokenizer").fingerprint == tokenizer.fingerprint
    (completion,) = generator.generate("Once upon a time", max_tokens=5)
    assert completion.tokens <= 5
    with InProcess(served_models(generator)) as app:
        body = {"prompt": "Once upon a time", "max_tokens": 5, "logprobs": 1, "echo": True}
        response = app.post("/v1/completions", body)
        info = app.get("/tokenizer_info").json
    assert response.status == 200
    assert response.json["choices"][0]["text"].strip().lower().startswith("once upon")
    assert info["bos_token"] == start
    assert bool(info["chat_template"]) == (kind == "ChatML")


def test_a_byte_level_tokenizer_that_cannot_spell_the_text_is_refused_with_byte_fallback(tmp_path: Path) -> None:
    byte_level(tmp_path)
    text = tmp_path / "chinese.jsonl"
    text.write_text("".join(json.dumps({"text": f"{story} 很久很久以前"}) + "\n" for story in TEXTS))
    with pytest.raises(TokenizerError, match=r"loses .* characters .*byte fallback .* --tokenizer bpe:4096"):
        train(tmp_path, text)


@pytest.mark.slow
def test_an_instruction_file_is_learned_and_the_served_chat_answers_in_the_template(tmp_path: Path) -> None:
    chat_ml(tmp_path)
    text = tmp_path / "instructions.jsonl"
    pairs = [("What did the fox do?", "It ran home."), ("Who was hungry?", "Ann was hungry.")]
    rows = [{"instruction": question, "output": answer} for question, answer in pairs * 30]
    text.write_text("".join(json.dumps({**row, "n": number}) + "\n" for number, row in enumerate(rows)))
    other = tmp_path / "validation.jsonl"
    other.write_text("".join(json.dumps({"instruction": f"{story}?", "output": story}) + "\n" for story in TEXTS[:9]))
    validation = {"kind": "source", "source": {"kind": "files", "paths": [str(other)]}}
    settings = [
        "data.loss_on=answers",
        f"data.validation={json.dumps(validation)}",
        "model.dropout=0",
        "optimizer.lr=2e-2",
    ]
    generator = train(tmp_path, text, *settings, "model.dim=32", "optimizer.lr=2e-2", steps=120)
    with InProcess(served_models(generator)) as app:
        for question, answer in pairs:
            messages = [{"role": "user", "content": question}]
            response = app.post("/v1/chat/completions", {"messages": messages, "max_tokens": 30, "temperature": 0})
            choice = response.json["choices"][0]
            assert (choice["message"]["content"], choice["finish_reason"]) == (answer, "stop")


@pytest.mark.fault("G3", cases=2)
def test_a_symbol_of_sentencepiece_that_its_files_call_special_is_text_where_text_spells_it(tmp_path: Path) -> None:
    llama(tmp_path, user_defined_symbols=["<|im_end|>", "<word>"])
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["additional_special_tokens"] = ["<|im_end|>"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = loading.open_any(str(tmp_path))
    special = tokenizer.special_tokens["<|im_end|>"]
    assert "<word>" not in tokenizer.special_tokens
    assert special not in tokenizer.encode("a <|im_end|> b")
    assert tokenizer.decode(tokenizer.encode("a <|im_end|> b").tolist()).strip() == "a <|im_end|> b"
    saved = tmp_path / "saved"
    tokenizer.save(saved)
    assert loading.load(saved).special_tokens == tokenizer.special_tokens
    assert loading.load(saved).fingerprint == tokenizer.fingerprint
