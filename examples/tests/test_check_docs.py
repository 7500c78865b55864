"""tools/check_docs.py on a small repository: what is there passes, what is not is named."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_docs", ROOT / "tools" / "check_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_docs"] = module
    spec.loader.exec_module(module)
    return module


FILES = {
    "packages/ml-data/src/ml_data/__init__.py": "def tokenize(): ...\n",
    "packages/ml-data/src/ml_data/indexed/__init__.py": "",
    "packages/ml-data/src/ml_data/indexed/reader.py": "class Reader:\n    size = 1\n",
    "packages/ml-data/tests/indexed/test_reader.py": "def test_it_reads(): ...\n",
    "tools/run.sh": "",
    "docs/other.md": "# A page, with `code`\n",
}
GOOD = """
[other](other.md) and [its heading](other.md#a-page-with-code), [web](https://x.org/a#b)
`ml_data/indexed/reader.py`, `indexed/reader.py`, `packages/ml-data/tests/indexed`, `tests/indexed`
`ml_data.indexed.reader.Reader`, `ml_data.tokenize`, `test_it_reads`, `test_reader.py`

```bash
bash tools/run.sh
```
"""
BAD = {
    "[other](nothing.md)": "link to nothing.md",
    "[other](other.md#no-heading)": "link to other.md#no-heading",
    "`ml_data/indexed/writer.py`": "path ml_data/indexed/writer.py",
    "`indexed/writer.py`": "path indexed/writer.py",
    "`tests/writer`": "path tests/writer",
    "```\nml_data/pipeline/run.py\n```": "path ml_data/pipeline/run.py",
    "`ml_data.indexed.writer`": "name ml_data.indexed.writer",
    "`ml_data.indexed.reader.Writer`": "name ml_data.indexed.reader.Writer",
    "```\nfrom ml_data.indexed import write\n```": "name ml_data.indexed.write",
    "`test_it_writes`": "test test_it_writes",
    "```bash\nbash tools/walk.sh\n```": "command names tools/walk.sh",
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def faults(checker: ModuleType, root: Path, text: str) -> list[str]:
    page = root / "docs" / "page.md"
    page.write_text(text)
    return checker.faults_of(checker.Tree(root, (*FILES, "docs/page.md")), page)


def test_what_is_there_passes(checker: ModuleType, repository: Path) -> None:
    assert faults(checker, repository, GOOD) == []


@pytest.mark.parametrize("text", BAD)
def test_what_is_not_there_is_named(checker: ModuleType, repository: Path, text: str) -> None:
    assert faults(checker, repository, text) == [f"docs/page.md: {BAD[text]}"]


def test_a_page_that_code_names_must_be_there(checker: ModuleType, repository: Path) -> None:
    name = "packages/ml-data/src/ml_data/indexed/reader.py"
    (repository / name).write_text('"""See docs/other.md and docs/gone.md."""')
    tree = checker.Tree(repository, tuple(FILES))
    assert checker.dead_pages(tree) == [f"{name}: page docs/gone.md"]


def test_the_documentation_names_nothing_that_is_gone(checker: ModuleType) -> None:
    assert checker.main() == 0
