"""Bytes that last: objects and generations in one lz4-compressed object file.

Knows bytes, objects, generations and partitions by number. Does not know processes, records of
processes, mounts or FUSE. Synchronous; a store may be used from several threads.
"""
