"""Kinds of exported chats, trees of messages, and rows whose text is nested or in lists."""

import json

from benchmarks.text_zoo.kind import Kind
from benchmarks.text_zoo.material import LINES
from benchmarks.text_zoo.table_kinds import CHATS, QUESTIONS, jsonl, table

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
    Kind(
        "an export of ChatGPT with its other files",
        {
            "conversations.json": json.dumps([exported(q, a) for q, a in zip(QUESTIONS, LINES, strict=True)]).encode(),
            "user.json": b'{"id": "user-1", "email": "ann@example.org"}',
            "message_feedback.json": b"[]",
            "chat.html": b"<html><body><p>The same chats.</p></body></html>",
        },
        CHATS,
        ".",
        notes=["left out: 1 .html, message_feedback.json and user.json"],
    ),
    Kind(
        "an export of Slack",
        {
            "users.json": b'[{"id": "U1", "profile": {"real_name": "Ann Fox"}}]',
            "channels.json": b'[{"id": "C1", "purpose": {"value": "This channel is for all."}}]',
            "general/2024-01-01.json": json.dumps([{"user": "U1", "ts": "1.0", "text": a} for a in LINES]).encode(),
        },
        LINES,
        ".",
        notes=["left out: channels.json and users.json"],
    ),
    Kind(
        "Alpaca with a history",
        {
            "a.json": json.dumps(
                [
                    {"instruction": q, "input": "", "output": a, "history": [["Hello!", "Good day."]]}
                    for q, a in zip(QUESTIONS, LINES, strict=True)
                ]
            ).encode()
        },
        [f"User: Hello!\n\nAssistant: Good day.\n\n{chat}" for chat in CHATS],
        "a.json",
        notes=["instruction, input, output, a conversation"],
    ),
    Kind(
        "a CSV of human and assistant",
        {"a.csv": table([("Human", "Assistant"), *zip(QUESTIONS, LINES, strict=True)])},
        CHATS,
        "a.csv",
        notes=["Human, Assistant, a conversation"],
    ),
    Kind(
        "a CSV of questions and answers in German",
        {"a.csv": table([("Frage", "Antwort"), *zip(QUESTIONS, LINES, strict=True)])},
        CHATS,
        "a.csv",
        notes=["Frage, Antwort, a conversation"],
    ),
    Kind(
        "messages in rows of their own",
        {
            "a.jsonl": jsonl(
                {"message_tree_id": n, "message_id": f"{n}{role}", "parent_id": parent, "role": role, "text": text}
                for n, (q, a) in enumerate(zip(QUESTIONS, LINES, strict=True))
                for role, parent, text in (("prompter", None, q), ("assistant", f"{n}prompter", a))
            )
        },
        CHATS,
        "a.jsonl",
        notes=["with the same message_tree_id are one conversation", "(48 of 48 rows)"],
    ),
]
