"""Update rules that two or more optimizers use, and the interface of an optimizer per engine."""
