"""Reads documents from files of all common formats: the one reading layer of all corpora of text.

`data.path` is a file or a folder, on disk or at a URL of fsspec such as gs://bucket/texts::

    corpus = Corpus(data)                     # data: a DataConfig; lists the files, reads none
    corpus.files                              # [SourceFile(name, path, size), …], sorted by name
    for document in corpus.documents():       # in a fixed order, one at a time
        for piece in document.pieces:         # bytes; only one piece is in memory
            …                                 # document.name is unique, like "a.jsonl.zst:12"

Documents whose pieces are not read are skipped. `corpus.documents(part, num_parts)` reads one of
several parts, which together are the whole; `corpus.is_plain` tells whether each file is a document
as it is, so that names and sizes are known without reading (`corpus.files`).

`suffixes` says which formats there are, `source_files` finds and opens files, `paths` knows the
splits that they belong to, `compression` and `archives` unpack them, `plain_text`, `json_rows`,
`csv_rows` and `tables` read what is inside, `rows` turns rows of fields into documents, and
`groups` joins rows of the same document.
"""
