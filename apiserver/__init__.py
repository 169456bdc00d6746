"""The small central API: REST, watch, store, admission, authentication.

A server, not a loop, so its furniture differs from the other rooms':

    http/          bytes in, bytes out: TLS, paths, content negotiation, streams
    pipeline*.py   one write: decode, admit, default, validate, commit
    registry.py    which resources there are and what is special about each
    cache.py       the watch cache: every object, every recent change; all reads come from here
    watch.py       who is told what
    store/         the only truth: a Protocol shaped like etcd v3, embedded SQLite behind it
    schema/ codec/ patch/ defaults validation printers discovery openapi: functions of values
"""
