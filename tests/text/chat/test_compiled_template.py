"""Tests of the two errors of a compiled template, and that Jinja is imported with the first conversation only."""

import subprocess
import sys
from typing import Any

import pytest

from fabella.text.chat.compiled_template import CompiledTemplate
from fabella.text.chat.template_errors import RefusedConversationError, UnusableTemplateError


def variables(**more: Any) -> dict[str, Any]:
    """Return what a template is given."""
    return {"messages": [{"role": "user", "content": "A story!"}], **more}


def test_a_template_writes_its_variables() -> None:
    template = CompiledTemplate("{% for message in messages %}{{ message.role }}: {{ message.content }}{% endfor %}")
    assert template.render(variables(), 8) == "user: A story!"


@pytest.mark.parametrize("source", ["{% for %}", "{{ a.b.c | unknown }}", "{{ " + "(" * 5000 + ")" * 5000 + " }}"])
def test_a_template_that_does_not_compile_is_unusable(source: str) -> None:
    with pytest.raises(UnusableTemplateError):
        CompiledTemplate(source)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("{{ raise_exception('Only users speak.') }}", RefusedConversationError),
        ("{{ messages[0].content + 1 }}", RefusedConversationError),
        ("{{ messages[0].content * 9 }}", UnusableTemplateError),
        ("{{ 1 // 0 }}", RefusedConversationError),
        ("{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}", UnusableTemplateError),
    ],
)
def test_a_conversation_is_refused_or_the_template_is_unusable(source: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        CompiledTemplate(source).render(variables(), 8)


def test_text_without_conversations_needs_no_jinja_and_no_models_of_encodings() -> None:
    code = "import sys; import fabella.cli.prepare; print([n for n in ('jinja2', 'chardet') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
