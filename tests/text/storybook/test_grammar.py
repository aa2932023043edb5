"""Tests of the notation of the plots, on a small example."""

import pytest

from fabella.text.storybook.grammar import Cast, casts, parse_plots, word_plot

FRAGMENTS = """
= greeting

- Hello, {Hero}!
"""

PLOT = """
= well

@ thing | where
a coin | in the well
a frog
  | under the {Friend}

> greeting

- One.
2- {He} saw {a_thing} and {his} friend saw {f.him}.
home- At home, 100 %.
woods- In the woods
  and far away.

¶
- {thing} was {where}.

- ~
- The end.
"""

(WELL,) = parse_plots(FRAGMENTS, PLOT)
AT_HOME = word_plot(WELL, Cast("home", heroine=True, friend_is_she=False))
IN_WOODS = word_plot(WELL, Cast("woods", heroine=False, friend_is_she=True))


def test_a_fragment_is_inserted_by_name() -> None:
    assert AT_HOME.beats[0] == ("Hello, %(Hero)s!",)


def test_pronouns_are_filled_in_and_other_slots_are_kept() -> None:
    assert AT_HOME.beats[1][1] == " She saw %(a_thing)s and her friend saw him."
    assert IN_WOODS.beats[1][1] == " He saw %(a_thing)s and his friend saw her."


def test_a_number_makes_a_variant_more_likely() -> None:
    assert AT_HOME.beats[1].count(AT_HOME.beats[1][1]) == 2


def test_variants_of_the_other_world_are_dropped() -> None:
    assert AT_HOME.beats[1][-1] % {} == " At home, 100 %."
    assert IN_WOODS.beats[1][-1] == " In the woods and far away."
    assert len(AT_HOME.beats[1]) == len(IN_WOODS.beats[1]) == 4


def test_a_paragraph_begins_where_it_is_marked() -> None:
    assert AT_HOME.beats[2] == ("\n\n%(thing)s was %(where)s.",)


def test_a_variant_may_be_empty() -> None:
    assert AT_HOME.beats[3] == ("", " The end.")


def test_a_table_is_read_row_by_row() -> None:
    assert AT_HOME.rows == (
        (("thing", "a coin"), ("where", "in the well")),
        (("thing", "a frog"), ("where", "under the %(Friend)s")),
    )


def test_there_is_a_cast_for_every_world_and_pair() -> None:
    assert len(set(casts())) == 8


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        parse_plots("", "= x\n\n@ a | b\none\n\n- Text.\n")
