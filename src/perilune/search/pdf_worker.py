"""Reads PDF files whose paths come by stdin, a line each; answers with a line of JSON each.

Runs alone (`python -P pdf_worker.py`), with limited memory, so it imports nothing of ours.
"""

import contextlib
import json
import logging
import sys

MEMORY = 2 << 30  # bytes of address space
LONGEST = 16 << 20  # characters of one file


def read(path: str) -> dict[str, str]:
    """Title and text of a file, or the problem with it."""
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError

    try:
        reader = PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            return {"problem": "the PDF needs a password"}
        pages, length, broken = [], 0, 0
        for number, page in enumerate(reader.pages, 1):
            try:
                text = (page.extract_text() or "").strip()
            except (MemoryError, RecursionError):
                raise
            except Exception:  # one bad page of a good file; pypdf raises many kinds
                broken += 1
                continue
            if text:
                pages.append(f"[page {number}]\n{text}")
                length += len(text)
            if length > LONGEST:
                break
        title = ""
        with contextlib.suppress(Exception):  # a broken title is not a title
            title = str((reader.metadata and reader.metadata.title) or "").strip()
    except (FileNotDecryptedError, DependencyError):
        return {"problem": "the PDF is encrypted"}
    except (MemoryError, RecursionError):
        return {"problem": "the PDF needs too much memory"}
    except Exception as error:  # damaged files raise almost anything
        return {"problem": f"the PDF is damaged ({type(error).__name__})"}
    if not pages:
        why = "its pages cannot be read" if broken else "perhaps it holds pictures of pages"
        return {"problem": f"no text in the PDF: {why}"}
    return {"title": title, "text": "\n\n".join(pages)}


def main() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable(logging.CRITICAL)
    for line in sys.stdin:
        print(json.dumps(read(line.rstrip("\n"))), flush=True)


if __name__ == "__main__":
    main()
