"""Words of a question that say nothing about what is searched for."""

_COMMON = """
    a about all also am an and any are as at be been but by can could did do does for from had has
    have he her his how i if in into is it its itself let like many me more most much my of on one
    or our please s she show so some such tell than that the their them then there these they this
    those to us was we were what whats when where which who whom whose why will with would you your
    know give find name called value exact exactly currently today theres got get per
"""
COMMON = frozenset(_COMMON.split())
