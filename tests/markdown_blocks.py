"""The fenced blocks of a Markdown file, which tests run."""

import re
from pathlib import Path


def fenced_blocks(path: Path, language: str) -> list[str]:
    """Return the text of each fenced block of a language, in their order."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)
    return [text for name, text in fenced if name == language]
