"""Which combinations of stacked parametrisations run by default: few, with each value in one."""

from collections import Counter, defaultdict
from itertools import combinations


def values_of(item):
    """The value that each parametrisation has in a test: by its identity, as values may be arrays.

    What one ``parametrize`` sets together is one value.
    """
    params, values = dict(item.callspec.params), {}
    for mark in item.iter_markers("parametrize"):
        names = mark.args[0] if mark.args else mark.kwargs["argnames"]
        names = names.replace(",", " ").split() if isinstance(names, str) else names
        values[tuple(names)] = tuple(id(params.pop(name)) for name in names)
    return values | {(name,): id(value) for name, value in params.items()}


def chosen(rows, in_pairs=False):
    """Indices of few rows that have each value of all rows, or also each pair of values.

    Each row maps parametrisations to values. The next row is always the one that has the most of
    what is missing; then the one that has the most pairs of values that no row before it has, and
    the values that were used least. So no value always keeps the same company.
    """
    pairs = [set(combinations(row.items(), 2)) for row in rows]
    wanted = [set(row.items()) | (pairs[i] if in_pairs else set()) for i, row in enumerate(rows)]
    missing, new_pairs, used, taken = set().union(*wanted), set().union(*pairs), Counter(), set()
    while missing:
        best = max(
            range(len(rows)),
            key=lambda i: (
                len(wanted[i] & missing),
                len(pairs[i] & new_pairs),
                -sum(used[value] for value in rows[i].items()),
                -i,
            ),
        )
        taken.add(best)
        used.update(rows[best].items())
        missing -= wanted[best]
        new_pairs -= pairs[best]
    return taken


def left_out(items):
    """The tests all of whose values other tests have, of the same function and with the same marks.

    With the same marks, as what is on a device that is not there, for example, does not run.
    """
    functions = defaultdict(list)
    for item in items:
        if hasattr(item, "callspec"):  # it has parameters
            marks = frozenset(mark.name for mark in item.iter_markers())
            functions[item.nodeid.partition("[")[0], marks].append(item)
    for tests in functions.values():
        in_pairs = tests[0].get_closest_marker("pairs") is not None
        kept = chosen([values_of(test) for test in tests], in_pairs)
        yield from (test for i, test in enumerate(tests) if i not in kept)
