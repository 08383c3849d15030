"""How large the package is: lines of code, tokens and statements of each module, and of all.

A line counts if a token stands on it; docstrings, comments and blank lines count nowhere, and the
``__init__`` files are not counted as modules.

    python docs/benchmarks/size.py [folder]
"""

import ast
import io
import sys
import tokenize
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


class Size(NamedTuple):
    """Of one file, or of several together."""

    lines: int
    tokens: int
    statements: int

    @classmethod
    def of(cls, path: Path) -> "Size":
        """Of a file of Python."""
        return cls.of_source(path.read_text(encoding="utf-8"))

    @classmethod
    def of_source(cls, source: str) -> "Size":
        """Of a module, a class or a function."""
        nodes = list(ast.walk(ast.parse(source)))
        texts = [node for node in nodes if _is_text(node)]
        described = {line for node in texts for line in range(node.lineno, node.end_lineno + 1)}
        tokens = [
            token
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type not in LAYOUT and token.start[0] not in described
        ]
        lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
        statements = sum(isinstance(node, ast.stmt) for node in nodes) - len(texts)
        return cls(len(lines), len(tokens), statements)

    @classmethod
    def total(cls, sizes: Iterable["Size"]) -> "Size":
        """Of all of them together."""
        return cls(*(sum(numbers) for numbers in zip(*sizes, strict=True)))


def _is_text(node: ast.AST) -> bool:
    """Whether a statement is a docstring, or a string that stands for one."""
    is_constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_constant and isinstance(node.value.value, str)


def main(folder: Path) -> None:
    """Print a line for each file, and one for all."""
    sizes = {path.relative_to(folder): Size.of(path) for path in sorted(folder.rglob("*.py"))}
    n_modules = sum(path.name != "__init__.py" for path in sizes)
    print(f"{'lines':>6} {'tokens':>7} {'statements':>11}")
    for path, size in [*sizes.items(), (f"{n_modules} modules", Size.total(sizes.values()))]:
        print(f"{size.lines:6} {size.tokens:7} {size.statements:11}  {path}")


if __name__ == "__main__":
    here = Path(__file__).resolve().parents[2] / "skorchless"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else here)
