"""Kinds of exported chats, trees of messages, and rows whose text is nested or in lists."""

import json

from benchmarks.text_zoo.kind import Kind
from benchmarks.text_zoo.material import LINES
from benchmarks.text_zoo.table_kinds import CHATS, QUESTIONS, jsonl

DISCORD = [
    {"type": "Default", "content": q, "author": {"id": "7", "name": "ann", "nickname": "Ann"}} for q in QUESTIONS
]


def exported(question: str, answer: str) -> dict[str, object]:
    """Return a conversation as ChatGPT exports it."""
    said = {"u": ("user", question), "a": ("assistant", answer)}
    messages = {key: {"author": {"role": role}, "content": {"parts": [text]}} for key, (role, text) in said.items()}
    return {
        "title": "About foxes",
        "mapping": {
            "r": {"message": None, "parent": None, "children": ["u"]},
            "u": {"message": messages["u"], "parent": "r", "children": ["a"]},
            "a": {"message": messages["a"], "parent": "u", "children": []},
        },
    }


def replies(*texts: str) -> list[dict[str, object]]:
    """Return answers in a tree of OpenAssistant."""
    return [{"text": text, "role": "assistant", "replies": []} for text in texts]


KINDS = [
    Kind(
        "an export of ChatGPT",
        {"a.json": json.dumps([exported(q, a) for q, a in zip(QUESTIONS, LINES, strict=True)]).encode()},
        CHATS,
        "a.json",
        notes=["mapping, a conversation"],
    ),
    Kind(
        "an export of Discord",
        {"a.json": json.dumps({"channel": {"name": "foxes"}, "messages": DISCORD}, indent=1).encode()},
        ["\n\n".join(f"Ann: {question}" for question in QUESTIONS)],
        "a.json",
        notes=["messages, a conversation"],
    ),
    Kind(
        "trees of OpenAssistant",
        {
            "a.jsonl": jsonl(
                {"message_tree_id": str(n), "prompt": {"text": q, "role": "prompter", "replies": replies(a, "No.")}}
                for n, (q, a) in enumerate(zip(QUESTIONS, LINES, strict=True))
            )
        },
        CHATS,
        "a.jsonl",
        notes=["prompt, a conversation"],
    ),
    Kind(
        "hh-rlhf",
        {
            "a.jsonl": jsonl(
                {"chosen": f"\n\nHuman: {q}\n\nAssistant: {a}", "rejected": f"\n\nHuman: {q}\n\nAssistant: No."}
                for q, a in zip(QUESTIONS, LINES, strict=True)
            )
        },
        CHATS,
        "a.jsonl",
        notes=["chosen, a conversation"],
    ),
    Kind(
        "recipes in lists",
        {
            "a.json": json.dumps(
                [{"title": q, "steps": a.split(". ")} for q, a in zip(QUESTIONS, LINES, strict=True)]
            ).encode()
        },
        ["\n".join(line.split(". ")) for line in LINES],
        "a.json",
        notes=["steps (24 documents)"],
    ),
    Kind(
        "answers nested next to titles",
        {
            "a.jsonl": jsonl(
                {"title": q, "answers": {"text": [a], "score": [1]}} for q, a in zip(QUESTIONS, LINES, strict=True)
            )
        },
        source="a.jsonl",
        refused="--column answers.text",
    ),
]
