"""Tests that errors have a message, a hint and the documented exit code."""

import pytest

from fabella import errors

CODES = {
    errors.UsageError: 2,
    errors.ConfigError: 2,
    errors.DataError: 3,
    errors.TextError: 3,
    errors.TokenizerError: 3,
    errors.PreparedDataError: 3,
    errors.StorageError: 4,
    errors.DiskFullError: 4,
    errors.LockedError: 4,
    errors.CheckpointError: 4,
    errors.UnknownFamilyError: 4,
    errors.NumericsError: 5,
    errors.NonFiniteStepError: 5,
    errors.DistributedError: 6,
    errors.OutOfMemoryError: 7,
    errors.TrainingInterrupted: 130,
}


@pytest.mark.parametrize(("error", "code"), CODES.items())
def test_each_error_has_its_exit_code(error: type[errors.FabellaError], code: int) -> None:
    assert error.exit_code == code


def test_the_docstring_lists_every_error() -> None:
    defined = {
        item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, errors.FabellaError)
    }
    assert defined - {errors.FabellaError} == set(CODES)
    assert all(error.__name__ in (errors.__doc__ or "") for error in defined)


def test_an_error_prints_its_message_and_its_hint() -> None:
    assert str(errors.TextError("a.txt is empty.", hint="Give a text.")) == "a.txt is empty. Give a text."
    assert str(errors.TextError("a.txt is empty.")) == "a.txt is empty."


def test_the_nearest_choice_is_suggested() -> None:
    assert errors.did_you_mean("optimizer.lrr", ["optimizer.lr", "seed"]) == "Did you mean 'optimizer.lr'?"


def test_a_dotted_choice_matches_by_its_last_part() -> None:
    assert errors.did_you_mean("lr", ["optimizer.lr", "seed"]) == "Did you mean 'optimizer.lr'?"


def test_without_a_similar_choice_a_short_list_of_choices_is_shown() -> None:
    assert errors.did_you_mean("zzz", ["b", "a"]) == "Choose from: a, b."
    assert errors.did_you_mean("zzz", [f"choice{n}" for n in range(errors.MAX_LISTED_CHOICES + 1)]) == ""
    assert errors.did_you_mean("zzz", []) == ""
