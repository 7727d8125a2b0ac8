"""Live processes: capture and restore.

This layer does not know how people reach it: no FUSE, no trio, no command line. It knows tasks, their kernel
resources, and the object store below.
"""
