"""The tables of the almanac's file, for its writer and its reader."""

from __future__ import annotations

from enum import IntEnum

KINDS = ("country", "city", "element", "airport", "word")
"""A kind is stored as its place in this list."""


class How(IntEnum):
    """In which way a text names an article; the smaller, the stronger."""

    NAME = 0
    ALIAS = 1
    OTHER = 2  # such as a city's name in another language
    CODE = 3  # such as FRA or Fe; counts only where it is written as a code


# `facts` is the view for readers: (article, entity, attribute, value, unit, year, source). A stored
# year is null where it is that of the source. `reversed_names` finds names by their end, for names
# that are misspelt at their beginning. `words` has no copy of the text (content=''): articles are
# written out from their facts.
SCHEMA = """
create table sources (
  id integer primary key, name text not null, year integer not null, package text not null,
  licence text not null
);
create table attributes (id integer primary key, name text not null, unit text not null);
create table articles (
  id integer primary key, kind integer not null, name text not null, weight integer not null,
  ordinal integer not null, summary text not null
);
create table stored (
  article integer not null, attribute integer not null, value not null, source integer not null,
  year integer, primary key (article, attribute)
) without rowid;
create table names (
  key text not null, article integer not null, how integer not null, primary key (key, article)
) without rowid;
create table reversed_names (key text primary key) without rowid;
create virtual table words using fts5(
  name, body, content='', detail=column, tokenize='porter unicode61 remove_diacritics 2'
);
create view facts as
  select stored.article, articles.name as entity, attributes.name as attribute, stored.value,
    attributes.unit, coalesce(stored.year, sources.year) as year, sources.name as source
  from stored join articles on articles.id = stored.article
    join attributes on attributes.id = stored.attribute
    join sources on sources.id = stored.source;
"""
