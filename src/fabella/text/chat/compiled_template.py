"""A chat template that is compiled and ready to write conversations.

Only this module and ``sandbox`` need Jinja. ``template`` imports this module with the first conversation: importing
Jinja takes a twentieth of the time that a command needs to start.
"""

from typing import Any

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError, TemplateSyntaxError

from fabella.text.chat.sandbox import BUDGET_VARIABLE, Budget, TemplateSandbox
from fabella.text.chat.template_errors import RefusedConversationError, UnusableTemplateError


class CompiledTemplate:
    """A Jinja template that renders as in Transformers, with limits on time and memory."""

    def __init__(self, source: str) -> None:
        """Compile ``source``. Raises UnusableTemplateError."""
        try:
            self._template = TemplateSandbox(source).from_string(source)
        except TemplateSyntaxError as error:
            raise UnusableTemplateError(f"{error.message}, line {error.lineno}") from error
        except (TemplateError, RecursionError, SyntaxError, ValueError, MemoryError) as error:
            raise UnusableTemplateError(str(error)[:200] or type(error).__name__) from error

    def render(self, variables: dict[str, Any], characters: int) -> str:
        """Return the text of a conversation that has ``characters`` characters.

        Raises RefusedConversationError if the template refuses it, UnusableTemplateError beyond a limit.
        """
        try:
            return self._template.render({**variables, BUDGET_VARIABLE: Budget(characters)})
        except SecurityError as error:
            raise UnusableTemplateError(str(error)) from error
        except TemplateError as error:
            raise RefusedConversationError(f"the chat template refuses it: {str(error).rstrip('.')}.") from error
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError) as error:
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
            raise RefusedConversationError(f"the chat template fails: {reason}.") from error
