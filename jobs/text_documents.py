"""Documents of text files: plain, JSON lines, Parquet; the first two gzipped, too."""

import contextlib
import datetime
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from job_input import InputError, json_object, reading

PIECE = 1 << 20  # characters read at once

# Makes text of the value of a field; the second argument names its place.
TextOf = Callable[[object, str], str]


def documents(path: Path, field: str | None, text_of: TextOf) -> Iterator[Iterator[str]]:
    """Yields a file's documents, each as pieces of text: one for plain text, one for every line of
    JSON or row of Parquet."""
    if path.suffix == ".parquet":
        yield from parquet_documents(path, field or "text", text_of)
    elif field is None:
        yield pieces_of(path)
    else:
        with lines_of(path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    where = f"{path}:{number}"
                    yield iter(
                        [text_of(json_value(line, field, where), f"{where}: field '{field}'")]
                    )


@contextlib.contextmanager
def lines_of(path: Path) -> Iterator[TextIO]:
    """Opens a text, gzipped if its name says so."""
    options = {"encoding": "utf-8-sig", "newline": ""}
    if path.suffix != ".gz":
        with reading(path), path.open(**options) as file:
            yield file
        return
    try:
        with gzip.open(path, "rt", **options) as file:
            yield file
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text inside ({error.reason})") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is damaged, or not gzipped ({error})") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


def pieces_of(path: Path) -> Iterator[str]:
    with lines_of(path) as file:
        yield from iter(lambda: file.read(PIECE), "")


def json_value(line: str, field: str, where: str) -> object:
    record = json_object(line, where, hint="; plain text goes without --field")
    if field not in record:
        raise InputError(f"{where} has no field '{field}'; name the one that holds the text")
    return record[field]


def parquet_documents(path: Path, field: str, text_of: TextOf) -> Iterator[Iterator[str]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise InputError(
            f"{path}: Parquet needs the package pyarrow; jobs/install-deps.sh --venv brings it"
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                raise InputError(
                    f"{path} has no column '{field}', but {', '.join(file.schema_arrow.names)}; "
                    "name the one that holds the text: --field"
                )
            row = 0
            for batch in file.iter_batches(batch_size=256, columns=[field]):
                for value in batch.column(0).to_pylist():
                    yield iter([text_of(value, f"{path}: row {row}, column '{field}'")])
                    row += 1
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"cannot read {path} as Parquet: {reason}") from None


def plain_text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where} is not a string; --chat takes lists of messages")
    return value


class ChatTemplate:
    """A checkpoint's template, which makes text of the messages of a chat."""

    def __init__(self, model: Path):
        try:
            import jinja2
            import jinja2.ext
            import jinja2.sandbox
        except ModuleNotFoundError:
            raise InputError(
                "--chat needs the package jinja2; jobs/install-deps.sh --venv brings it"
            ) from None
        self.error = jinja2.TemplateError
        source, config = template_of(model)
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = lambda value, indent=None: json.dumps(
            value, ensure_ascii=False, indent=indent
        )
        environment.globals["raise_exception"] = self.refuse
        environment.globals["strftime_now"] = datetime.datetime.now().strftime
        self.tokens = {
            name: token["content"] if isinstance(token, dict) else token
            for name, token in config.items()
            if name.endswith("_token") and isinstance(token, str | dict)
        }
        try:
            self.template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise InputError(f"{model}: the chat template is malformed ({error})") from None

    def refuse(self, message: str) -> None:
        raise self.error(message)

    def __call__(self, value: object, where: str) -> str:
        messages = value if isinstance(value, list) else None
        if not messages or not all(isinstance(one, dict) for one in messages):
            raise InputError(f"{where} is not a list of messages, each with role and content")
        try:
            return self.template.render(
                messages=messages, add_generation_prompt=False, **self.tokens
            )
        except (self.error, TypeError, ValueError) as error:
            raise InputError(f"{where}: the chat template refuses it ({error})") from None


def template_of(model: Path) -> tuple[str, dict]:
    """Returns a checkpoint's template for chats and tokenizer_config.json."""
    file = model / "tokenizer_config.json"
    config = {}
    if file.is_file():
        with reading(file, "a tokenizer's configuration"):
            config = dict(json.loads(file.read_text(encoding="utf-8")))
    own = model / "chat_template.jinja"
    if own.is_file():
        with reading(own):
            return own.read_text(encoding="utf-8"), config
    template = config.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = {one.get("name"): one.get("template") for one in template}.get("default")
    if not isinstance(template, str):
        raise InputError(f"{model} has no chat template: take a chat model's, or leave out --chat")
    return template, config
