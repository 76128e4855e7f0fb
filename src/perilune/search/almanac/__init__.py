"""The almanac: facts about countries, cities, elements, airports and words, without a network."""

from perilune.search.almanac.almanac import Almanac, Fact, open_almanac
from perilune.search.almanac.questions import Question, questions

__all__ = ["Almanac", "Fact", "Question", "open_almanac", "questions"]
