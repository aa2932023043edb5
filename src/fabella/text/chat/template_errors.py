"""What can go wrong with a chat template."""


class RefusedConversationError(ValueError):
    """A template refuses a conversation; the message is the template's."""


class UnusableTemplateError(ValueError):
    """A template has no valid syntax, or exceeds a limit on time or memory; the message is the reason."""
