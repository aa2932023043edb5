"""Conversations, instructions, nested columns and templates become text, and what is left out is reported."""

import json
from typing import Any

import pytest

from fabella.errors import TextError
from fabella.text.chat.marks import parse, plain_text
from fabella.text.chat.template import ChatTemplate, ConversationWriter, marked_writer, named
from fabella.text.tables.conversation import conversation
from fabella.text.tables.text_column import NoTextError, find_text

STORY = "Once upon a time a fox ran home, and it was late."
OPENAI: dict[str, Any] = {
    "id": "c0",
    "messages": [{"role": "user", "content": "A story!"}, {"role": "assistant", "content": STORY}],
}
SHAREGPT = {"id": "c0", "conversations": [{"from": "human", "value": "A story!"}, {"from": "gpt", "value": STORY}]}
PARTS = {"messages": [{"role": "user", "content": [{"type": "text", "text": "A story!"}]}, OPENAI["messages"][1]]}
ALPACA = {"instruction": "A story!", "input": "", "output": STORY}
PAIR = {"prompt": "A story!", "response": STORY, "n": 1}
PROBLEM = {"problem": "A story!", "solution": STORY, "answer": "42"}
SPLIT = {"prompt": OPENAI["messages"][:1], "completion": OPENAI["messages"][1:]}
HALF = {"prompt": OPENAI["messages"][:1], "response": STORY}
AS_JSON = {"id": "c0", "messages": json.dumps(OPENAI["messages"])}
AS_PYTHON = {"id": "c0", "messages": repr(OPENAI["messages"]).encode()}
BAD = f"{STORY} {STORY}"
PREFERENCE = {"prompt": "A story!", "chosen": STORY, "rejected": BAD}
PREFERENCES = {
    "prompt": "A story!",
    "chosen": OPENAI["messages"],
    "rejected": [OPENAI["messages"][0], {"role": "assistant", "content": BAD}],
}
SPLIT_PREFERENCES = {"prompt": SPLIT["prompt"], "chosen": SPLIT["completion"], "rejected": BAD}
EXPECTED = f"User: A story!\n\nAssistant: {STORY}"


@pytest.mark.parametrize(
    "row",
    [
        OPENAI, SHAREGPT, PARTS, ALPACA, PAIR, PROBLEM, SPLIT, HALF, AS_JSON, AS_PYTHON,
        PREFERENCE, PREFERENCES, SPLIT_PREFERENCES,
    ],
)  # fmt: skip
def test_conversations_and_instructions_are_recognized(row: dict[str, Any]) -> None:
    found = find_text("auto", [row] * 3, "a.jsonl")
    assert found.text(row) == EXPECTED
    assert "conversation written with the chat template 'plain'" in found.description


@pytest.mark.parametrize(
    ("wanted", "row", "expected"),
    [
        ("{prompt}\\n{response}", PAIR, f"A story!\n{STORY}"),
        ("{n}: {prompt}", PAIR, "1: A story!"),
        ("doc.text", {"doc": {"text": STORY, "n": 1}}, STORY),
        ("pages.text", {"pages": [{"text": "One."}, {"text": "Two."}]}, "One.\nTwo."),
        ("lines", {"lines": ["One.", "Two."]}, "One.\nTwo."),
        ("messages", OPENAI, EXPECTED),
        ("{title}\n{doc.text}", {"title": "Fox", "doc": {"text": STORY}}, f"Fox\n{STORY}"),
        ("a.b", {"a.b": STORY}, STORY),
    ],
)
def test_templates_paths_and_lists_are_read(wanted: str, row: dict[str, Any], expected: str) -> None:
    assert find_text(wanted, [row], "a.jsonl").text(row) == expected


def test_of_preferences_in_one_text_the_chosen_one_is_read() -> None:
    rows = [{"rejected": f"User: A story!\n\n{BAD} {n}", "chosen": f"User: A story!\n\n{STORY} {n}"} for n in range(9)]
    found = find_text("auto", rows, "a.jsonl")
    assert (found.columns, found.left_out) == (("chosen",), ())
    rejected_alone = [{"rejected": row["rejected"]} for row in rows]
    assert find_text("auto", rejected_alone, "a.jsonl").columns == ("rejected",)


def test_the_first_messages_and_the_system_of_a_pair_are_kept() -> None:
    row = {
        "system": "Be brief.",
        "prompt": [*OPENAI["messages"], {"role": "user", "content": "More!"}],
        "response": "No.",
    }
    assert find_text("auto", [row], "a.jsonl").text(row) == (
        f"System: Be brief.\n\nUser: A story!\n\nAssistant: {STORY}\n\nUser: More!\n\nAssistant: No."
    )


def test_a_text_that_begins_like_a_list_stays_text() -> None:
    for text in ("[{'a': 1}]", "[{broken", "[" * 5000 + "{" + "]" * 5000, "[{'role': open('a')}]", "[Applause] {x}]"):
        assert conversation(text) == []
        assert find_text("text", [{"text": text}], "a.jsonl").text({"text": text}) == text


def test_a_column_is_text_because_it_reads_as_text_not_because_it_is_long() -> None:
    rows = [
        {
            "hash": f"{n:064x}",
            "url": f"https://example.org/{n}/{'x' * 90}",
            "date": "2024-05-05T10:00:00",
            "tale": STORY + str(n),
        }
        for n in range(30)
    ]
    assert find_text("auto", rows, "a.jsonl").columns == ("tale",)


@pytest.mark.fault("I7", cases=3)
@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"id": "c0", "n": 1}, r"Set the column: --column NAME\. Its columns: id \('c0'\), n \(1\)"),
        ({"id": "c0", "doc": {"text": STORY}}, r"Name nested text, for example --column doc\.text"),
        ({"label": "positive"}, r"Set the column: --column NAME"),
    ],
)
def test_a_doubtful_guess_stops_and_lists_what_there_is(row: dict[str, Any], hint: str) -> None:
    with pytest.raises(TextError, match=hint):
        find_text("auto", [row] * 30, "a.jsonl")


def test_other_columns_of_text_are_reported_with_a_template_that_reads_them() -> None:
    rows = [{"title": f"The tale of fox number {n}", "text": f"{STORY} {n}"} for n in range(30)]
    found = find_text("auto", rows, "a.jsonl")
    assert found.columns == ("text",)
    message = found.left_out_message("a.jsonl")
    assert message == r"columns of a.jsonl left out: title; --column '{title}\n{text}' reads them, too"
    template = message.partition("'")[2].partition("'")[0]
    assert find_text(template, rows, "a.jsonl").text(rows[0]) == f"The tale of fox number 0\n{STORY} 0"


def test_columns_with_commas_are_joined_by_the_template_of_the_hint() -> None:
    with pytest.raises(TextError, match=r"Join columns with a template: --column '\{prompt\}\\n\{response\}'"):
        find_text("prompt,response", [PAIR], "a.jsonl")


def test_what_is_no_conversation_is_none() -> None:
    for value in ("text", "[]", [], [1], [{"role": "user"}], [{"content": "a"}, {}], None, {}):
        assert conversation(value) == []


@pytest.mark.parametrize(
    ("wanted", "row"),
    [
        ("{prompt}\\n{response}", PAIR),
        ("Q: {instruction} A: {output}", ALPACA),
        ("{a.answer}", {"a": {"answer": STORY}}),
    ],
)
def test_the_response_of_a_template_is_the_answer(wanted: str, row: dict[str, Any]) -> None:
    text = find_text(wanted, [row], "a.jsonl", marked_writer(mark_answer=True)).text(row)
    assert isinstance(text, str)
    assert [piece.text for piece in parse(text) if piece.answer] == [STORY]


def test_a_conversation_that_the_template_refuses_is_a_bad_row() -> None:
    template = ChatTemplate("strict", "{{ raise_exception('Only users speak') }}")
    find = find_text("auto", [OPENAI], "a.jsonl", ConversationWriter(template))
    with pytest.raises(NoTextError, match=r"the chat template refuses it: Only users speak\."):
        find.text(OPENAI)


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo <|end|>"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "of a city"}}]
TOOL_CHAT = [
    {"role": "user", "content": "How warm is it?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "9 degrees"},
    {"role": "assistant", "content": "It is 9 degrees."},
]
WRITES_TOOLS = (
    "{% for tool in tools or [] %}[{{ tool.function.name }}: {{ tool.function.description }}] {% endfor %}"
    "{% for message in messages %}{{ message.role }}: {{ message.content }}{% for call in message.tool_calls or [] %}"
    "{{ call.function.name }}({{ call.function.arguments | tojson }}){% endfor %}<|end|>{% endfor %}"
)
WITHOUT_TOOLS = "{% for message in messages %}{{ message.role }}: {{ message.content }}<|end|>{% endfor %}"
WITHOUT_RESULTS = (
    "{% for message in messages %}{% if message.role != 'tool' %}{{ message.content }}{{ message.tool_calls }}"
    "{% endif %}{% endfor %}{{ tools }}"
)


def foreign(source: str) -> ConversationWriter:
    """Return a writer with a template from elsewhere."""
    return ConversationWriter(ChatTemplate("foreign", source, ("<|end|>",)), marks=True)


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS)], ids=["list", "JSON"])
def test_tools_and_their_calls_are_written_by_a_template_that_has_them(tools: Any) -> None:
    row = {"messages": TOOL_CHAT, "tools": tools}
    found = find_text("auto", [row], "a.jsonl", foreign(WRITES_TOOLS))
    text = found.text(row)
    assert isinstance(text, str)
    assert found.columns == ("messages", "tools")
    assert plain_text(text) == (
        "[weather: of a city] user: How warm is it?<|end|>"
        'assistant: weather({"city": "Oslo <|end|>"})<|end|>tool: 9 degrees<|end|>assistant: It is 9 degrees.<|end|>'
    )
    assert [piece.text for piece in parse(text) if piece.kind == "special"] == ["<|end|>"] * 4


def test_a_column_of_text_named_tools_is_no_description_of_tools() -> None:
    row = {**OPENAI, "tools": "hammer, nails"}
    found = find_text("messages", [row], "a.jsonl")
    assert (found.columns, found.text(row)) == (("messages",), EXPECTED)


def test_a_column_of_tools_that_is_empty_at_first_is_read() -> None:
    found = find_text("messages", [{**OPENAI, "tools": None}], "a.jsonl", foreign(WRITES_TOOLS))
    assert "weather: of a city" in str(found.text({**OPENAI, "tools": TOOLS}))


@pytest.mark.fault("I7", cases=6)
@pytest.mark.parametrize(
    ("source", "tools", "messages", "left_out"),
    [
        (WITHOUT_TOOLS, TOOLS, TOOL_CHAT, "the tools"),
        (WITHOUT_TOOLS, [], TOOL_CHAT, r"the tool_calls of message 2 \(role assistant\)"),
        (WITHOUT_TOOLS, None, [{**OPENAI["messages"][1], "function_call": CALL}], r"the function_call of message 1"),
        (WITHOUT_RESULTS, TOOLS, TOOL_CHAT, r"message 3 \(role tool\)"),
        (named("chatml").source, [], TOOL_CHAT, r"the tool_calls of message 2 \(role assistant\)"),
        (named("plain").source, TOOLS, OPENAI["messages"], "the tools"),
    ],
)
def test_what_a_template_leaves_out_of_a_conversation_with_tools_is_refused(
    source: str, tools: Any, messages: list[dict[str, Any]], left_out: str
) -> None:
    row = {"messages": messages, "tools": tools}
    find = find_text("messages", [row], "a.jsonl", foreign(source))
    with pytest.raises(NoTextError, match=f"'foreign' does not write {left_out}.*--chat-template PATH"):
        find.text(row)


@pytest.mark.fault("I7", cases=5)
def test_tools_that_are_no_list_and_parts_that_are_no_text_are_refused() -> None:
    for tools in ('{"name": "weather"}', {"name": "weather"}):
        row = {"messages": TOOL_CHAT, "tools": tools}
        with pytest.raises(NoTextError, match="'tools' is not a list"):
            find_text("messages", [row], "a.jsonl", foreign(WRITES_TOOLS)).text(row)
    picture = {"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": "image_url", "url": "a"}]}
    row = {"messages": [picture, OPENAI["messages"][1]]}
    for value in (row, {"messages": json.dumps(row["messages"])}):
        with pytest.raises(NoTextError, match="message 1 has a part of type 'image_url'; only text is read"):
            find_text("messages", [value], "a.jsonl").text(value)
    pair = {"prompt": [picture], "response": STORY}
    with pytest.raises(NoTextError, match="message 1 has a part of type 'image_url' in 'prompt'; only text is read"):
        find_text("auto", [pair], "a.jsonl").text(pair)


def test_the_tools_of_a_pair_are_written() -> None:
    row = {"prompt": TOOL_CHAT[:1], "completion": TOOL_CHAT[1:], "tools": TOOLS}
    found = find_text("auto", [row], "a.jsonl", foreign(WRITES_TOOLS))
    assert found.columns == ("prompt", "completion", "tools")
    assert plain_text(str(found.text(row))).startswith("[weather: of a city] user: How warm is it?<|end|>")


TREE = {"text": "Who?", "role": "prompter", "replies": [
    {"text": "A fox.", "role": "assistant", "replies": []}, {"text": "An owl.", "role": "assistant", "replies": []},
]}  # fmt: skip
MAPPING = {
    "r": {"message": None, "parent": None, "children": ["s"]},
    "s": {"message": {"author": {"role": "system"}, "content": {"parts": [""]}}, "parent": "r", "children": ["u"]},
    "u": {
        "message": {"author": {"role": "user"}, "content": {"parts": ["Who?"]}},
        "parent": "s",
        "children": ["o", "a"],
    },
    "o": {"message": {"author": {"role": "assistant"}, "content": {"parts": ["Old."]}}, "parent": "u", "children": []},
    "a": {
        "message": {"author": {"role": "assistant"}, "content": {"parts": ["A fox."]}},
        "parent": "u",
        "children": [],
    },
}


@pytest.mark.parametrize(
    "row",
    [
        {"id": "t", "prompt": TREE},
        {"title": "About foxes", "mapping": MAPPING},
        {
            "name": "x",
            "chat_messages": [{"sender": "human", "text": "Who?"}, {"sender": "assistant", "text": "A fox."}],
        },
        {"contents": [{"role": "user", "parts": [{"text": "Who?"}]}, {"role": "model", "parts": [{"text": "A fox."}]}]},
        {"chosen": "\n\nHuman: Who?\n\nAssistant: A fox.", "rejected": "\n\nHuman: Who?\n\nAssistant: No."},
    ],
)
def test_exports_trees_and_transcripts_are_conversations(row: dict[str, Any]) -> None:
    assert find_text("auto", [row], "a.jsonl").text(row) == "User: Who?\n\nAssistant: A fox."


def test_a_chat_between_people_has_their_names() -> None:
    discord = [{"type": "Default", "content": "Hello!", "author": {"id": "7", "name": "ann", "nickname": "Ann"}}]
    telegram = [
        {"type": "service", "actor": "Ann", "text": ""},
        {"type": "message", "from": "Ann", "text": ["Look: ", {"type": "link", "text": "http://x"}, " Nice."]},
    ]
    for messages, expected in ((discord, "Ann: Hello!"), (telegram, "Ann: Look: http://x Nice.")):
        row = {"messages": messages}
        assert find_text("auto", [row], "a.json").text(row) == expected


def test_a_damaged_tree_ends_where_it_repeats() -> None:
    circle = {**MAPPING, "a": {**MAPPING["a"], "children": ["u"]}}
    assert [message.content for message in conversation(circle)] == ["Who?", "A fox."]


def test_an_empty_system_prompt_is_left_out_and_another_one_is_kept() -> None:
    rows = [{"system_prompt": system, "question": "Who?", "response": "A fox."} for system in ("", "Be kind.")]
    texts = [find_text("auto", rows, "a.jsonl").text(row) for row in rows]
    assert texts == ["User: Who?\n\nAssistant: A fox.", "System: Be kind.\n\nUser: Who?\n\nAssistant: A fox."]


TURNS = ["Who?", "A fox.", "Where?", "In a wood."]
SAID = "User: Who?\n\nAssistant: A fox.\n\nUser: Where?\n\nAssistant: In a wood.\n\n"


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([TURNS[:2], TURNS[2:]], SAID),
        (TURNS, SAID),
        (json.dumps([TURNS[:2], TURNS[2:]]), SAID),
        (repr([TURNS[:2], TURNS[2:]]).encode(), SAID),
        ([{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "A fox."}], SAID[:31]),
        ([], ""),
        ("[]", ""),
        (None, ""),
    ],
)
def test_a_history_comes_before_the_request(history: object, expected: str) -> None:
    row = {"instruction": "Why?", "input": "", "output": STORY, "history": history}
    assert find_text("auto", [row], "a.jsonl").text(row) == f"{expected}User: Why?\n\nAssistant: {STORY}"


def test_a_history_that_is_plain_text_is_kept_in_the_request() -> None:
    row = {"history": "They met a fox.", "prompt": "Who?", "response": STORY}
    found = find_text("auto", [row], "a.jsonl")
    assert found.text(row) == f"User: They met a fox.\n\nWho?\n\nAssistant: {STORY}"


@pytest.mark.parametrize(("request_name", "answer_name"), [("Human", "Assistant"), ("user", "bot"), ("human", "gpt")])
def test_columns_with_the_names_of_the_roles_are_a_conversation(request_name: str, answer_name: str) -> None:
    row = {request_name: "A story!", answer_name: STORY}
    assert find_text("auto", [row], "a.csv").text(row) == EXPECTED


@pytest.mark.parametrize(
    "names",
    [
        ("Frage", "Antwort"),
        ("问题", "回答"),
        (" Вопрос ", "Ответ"),
        ("question", "re\u0301ponse"),
        ("Question", "Reponse"),
        ("질문", "답변"),
        ("प्रश्न", "उत्तर"),
        ("Q", "A"),
    ],
)
def test_requests_and_responses_are_recognized_in_many_languages(names: tuple[str, str]) -> None:
    row = dict(zip(names, ("A story!", STORY), strict=True))
    assert find_text("auto", [row] * 3, "a.csv").text(row) == EXPECTED


def test_cells_that_are_lists_of_strings_are_read_as_lines() -> None:
    steps = [{"title": f"Soup {n}", "steps": json.dumps(["Cut the leek.", f"Boil it {n} times."])} for n in range(9)]
    printed = [{**row, "steps": str(json.loads(row["steps"]))} for row in steps]
    for rows in (steps, printed):
        found = find_text("steps", rows, "a.csv")
        assert (found.description, found.text(rows[3])) == (
            "steps, the lines of a list",
            "Cut the leek.\nBoil it 3 times.",
        )
        assert find_text("auto", rows, "a.csv").text(rows[3]) == "Cut the leek.\nBoil it 3 times."
        assert find_text("{title}: {steps}", rows, "a.csv").text(rows[3]) == "Soup 3: Cut the leek.\nBoil it 3 times."
    mixed = [*steps, {"title": "x", "steps": "[a note in brackets] and more."}]
    assert find_text("steps", mixed, "a.csv").text(steps[3]) == steps[3]["steps"]
