"""What people see: partitions and generations as a mounted filesystem.

Knows sls (live processes) and slos (bytes that last). No other layer knows slfs.
"""
