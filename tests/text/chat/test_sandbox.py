"""Templates of unknown origin: they cannot reach Python, and neither hang nor fill the memory."""
# ruff: noqa: E501 - a template is one line

import pytest

from fabella.errors import TextError
from fabella.text.chat.marks import plain_text
from fabella.text.chat.template import ChatTemplate, Message
from fabella.text.chat.template_errors import RefusedConversationError

CHAT = [Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Bye")]
LOOP = "{% set n = namespace(s=START) %}{% for i in range(100) %}{% set n.s = STEP %}{% endfor %}{{ n.s }}"
BLOCK = (
    "{% set n = namespace(s='aa') %}{% for i in range(100) %}{% set n.s %}{{ n.s }}{{ n.s }}{% endset %}{% endfor %}"
)
GROWING = [
    ("'a'", "n.s ~ n.s"), ("'a'", "n.s + n.s"), ("'a'", "[n.s, n.s, n.s] | join('a')"), ("'a'", "n.s.replace('a', 'aa')"),
    ("'a'", "n.s | replace('a', 'aa')"), ("'a'", "n.s.join(['a', 'a', n.s])"), ("[1]", "[n.s, n.s]"),
    ("[1]", "n.s + n.s"), ("[1]", "(n.s, n.s)"), ("[1]", "{'a': n.s, 'b': n.s}"), ("[1]", "dict(a=n.s, b=n.s)"),
    ("9", "n.s * n.s"), ("'a'", "n.s | string ~ (n.s | upper)"), ("'a'", "n.s * 2"),
]  # fmt: skip
HOSTILE = [
    *(LOOP.replace("START", start).replace("STEP", step) for start, step in GROWING),
    BLOCK,
    "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
    "{% for i in range(10**9) %}x{% endfor %}", "{{ range(10000000000) | list }}", "{{ 'a' * 10**10 }}", "{{ 10**10**10 }}",
    "{{ '%1000000000d' % 1 }}", "{{ 'a'.center(10**9) }}", "{{ 'a'.ljust(1000000000) }}", "{{ '1'.zfill(1000000000) }}",
    "{{ '{:>1000000000}'.format(1) }}", "{{ '{0:>1000000000}'.format_map({}) }}", "{{ 'a' | center(1000000000) }}",
    "{{ 1 | format(1) }}", "{{ messages | tojson(indent=1000000000) }}", "{{ strftime_now('%1000000000d') }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(80) }}",
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}", "{{ lipsum(10000000) }}",
    "{% for m in messages recursive %}{{ loop(messages) }}{{ loop(messages) }}{% endfor %}",
    "{% set x %}{% for i in range(60000) %}{{ 'aaaaaaaaaaaaaaaa' }}{% endfor %}{% endset %}"
    "{% for i in range(60000) %}{{ x }}{% endfor %}",
    "{{ ''.__class__.__mro__ }}", "{{ raise_exception.__globals__.x }}", "{{ messages | attr('__class__') }}",
    "{% include '/etc/passwd' %}", "{% import 'os' as os %}", "{{ messages.append(1) }}",
    "{{ (messages | map(attribute='__class__') | list)[0].__mro__ }}",
]  # fmt: skip


@pytest.mark.fault("E7", cases=len(HOSTILE))
@pytest.mark.parametrize("source", HOSTILE)
def test_a_hostile_template_is_stopped(source: str) -> None:
    with pytest.raises((TextError, RefusedConversationError)):
        ChatTemplate("hostile", source).render(CHAT)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for m in messages %}{{ m['role'] | upper }}{% if not loop.last %}, {% endif %}{% endfor %}",
         "USER, ASSISTANT, USER"),
        ("{%- for m in messages -%}\n    {%- if loop.index0 % 2 == 0 -%}{{ m.content | trim }}{%- endif -%}\n{%- endfor %}",
         "HiBye"),
        ("{% set ns = namespace(found=false) %}{% for m in messages[1:] %}{% set ns.found = true %}{% endfor %}{{ ns.found }}",
         "True"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "Hi"}'),
        ("{{ messages[-1].content.split('y')[0] + '-' ~ 1 }}", "B-1"),
        ("{% for m in messages if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
         "Hello"),
        ("{% for m in messages %}{% if m.role == 'assistant' %}{% continue %}{% endif %}{{ m.content }}{% endfor %}", "HiBye"),
        ("{% macro say(m) %}<{{ m.content }}>{% endmacro %}{% for m in messages %}{{ say(m) }}{% endfor %}", "<Hi><Hello><Bye>"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(' ') }}", "Hi Bye"),
        ("{% if tools is not none and tools is defined %}tools{% endif %}{{ messages | length * 2 }}", "6"),
        ("{{ 'a' in ['a', 'b'] }}{{ messages[0].content.startswith('H') }}{{ bos_token is defined }}", "TrueTrueTrue"),
    ],
)  # fmt: skip
def test_what_templates_on_the_hub_use_is_there(source: str, expected: str) -> None:
    assert plain_text(ChatTemplate("ordinary", source).render(CHAT, mark_answer=False)) == expected


def test_a_long_conversation_is_within_the_limits() -> None:
    long = [Message("user" if number % 2 == 0 else "assistant", "word " * 2000) for number in range(200)]
    source = (
        "{% for m in messages %}<{{ m.role }}>{% generation %}{{ m.content | trim }}{% endgeneration %}{% endfor %}"
    )
    assert len(plain_text(ChatTemplate("long", source + " " * 5000).render(long))) > 10_000 * 200 - 1000
