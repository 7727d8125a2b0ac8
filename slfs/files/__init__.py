"""The file tree of a partition: an ordinary POSIX tree whose bytes lie in the store.

records      inodes and directory logs as bytes
cache        pages of a file that the store does not hold yet
base         what the store holds of a tree: one generation of the partition's file stream
tree         inodes, names and contents: the rules of POSIX, without FUSE
acl          POSIX access control lists as the kernel hands them over
snapshot     the live tree: flushed, frozen at an instant, rolled back
operations   requests of the kernel, beside slfs.fs the one module that imports pyfuse3
"""
