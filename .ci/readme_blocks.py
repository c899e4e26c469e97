"""Writes the bash blocks under '## Quick start' of a README to FOLDER/block1.sh, block2.sh, ...

python .ci/readme_blocks.py README.md FOLDER
"""

import pathlib
import re
import sys


def quick_start_blocks(readme: str) -> list[str]:
    """The bash blocks of the section, in order."""
    section = readme.split("\n## Quick start\n")[1].split("\n## ")[0]
    return re.findall(r"^```bash\n(.*?)^```", section, re.DOTALL | re.MULTILINE)


if __name__ == "__main__":
    source, folder = sys.argv[1:]
    for number, block in enumerate(quick_start_blocks(pathlib.Path(source).read_text()), 1):
        pathlib.Path(folder, f"block{number}.sh").write_text(block)
