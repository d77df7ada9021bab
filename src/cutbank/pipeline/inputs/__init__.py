"""Real input: files and standard input as records, CSV or NDJSON, plain or gzip, and the columns that they hold.

Producer and demo share it. Everything blocks: callers keep it off the event loop. Memory is bounded by
`LINE_BYTES_MAX` and the sample, whatever the file's size.
"""

from cutbank.pipeline.inputs.lines import LINE_BYTES_MAX
from cutbank.pipeline.inputs.reader import Input, InputFormat, InputRecord, columns_of, open_input

__all__ = ["LINE_BYTES_MAX", "Input", "InputFormat", "InputRecord", "columns_of", "open_input"]
